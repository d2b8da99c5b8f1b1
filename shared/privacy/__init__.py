"""Differential privacy: noise that sums are released with."""
