"""The coordinator's HTTP face: one module for each noun, all under ``/v1``."""
