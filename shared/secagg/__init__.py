"""Secure aggregation: a site's vector becomes integers, the integers are hidden, and only their sum is opened."""
