"""All SQL of the registry; rows never leave."""
