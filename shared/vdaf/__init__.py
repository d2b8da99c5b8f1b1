"""Verifiable distributed aggregation: sums of secret inputs that are proved valid (VDAF, Prio3 and PINE)."""
