"""The routes of the keys service."""
