"""Whom the helper believes."""
