"""All SQL of a custodian."""
