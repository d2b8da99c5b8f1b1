"""Private statistics: what a site adds up, and what the federation's sums say. Pure."""
