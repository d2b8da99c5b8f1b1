"""Messages of the steps of a round, and the answers to them."""
