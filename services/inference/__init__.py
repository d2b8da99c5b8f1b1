"""The inference service: predictions of one verified model version over REST."""
