"""Undersong: federated learning and privacy computing whose services only ever open sums."""

__version__ = "0.1.0"
