"""The routes of the registry."""
