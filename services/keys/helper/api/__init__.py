"""The routes of the helper."""
