"""The client for ordinary programs and the command line, by area.

Generated from `aio/__init__.py` by `make client`: change that file.
"""
