"""All SQL of the helper. Rows stay inside; frozen values come out."""
