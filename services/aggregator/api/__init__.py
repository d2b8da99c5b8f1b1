"""The routes of the aggregator."""
