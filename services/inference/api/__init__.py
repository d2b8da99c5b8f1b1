"""The routes of the inference service."""
