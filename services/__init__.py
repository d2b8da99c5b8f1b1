"""The deployable parts; each is the sole owner of its tables and secrets."""
