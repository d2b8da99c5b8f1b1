"""A custodian's HTTP face."""
