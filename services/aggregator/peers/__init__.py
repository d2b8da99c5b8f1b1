"""Clients of the other services, and what an engine asks of them."""
