"""Clients of the other services: aggregator, keys and registry."""
