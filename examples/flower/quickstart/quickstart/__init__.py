"""Digits by a small network."""
