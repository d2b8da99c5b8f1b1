"""Built-in training recipes, importable without the services."""
