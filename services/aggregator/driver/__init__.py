"""What a worker does for a round that it holds: fold, close steps, open the sum, publish."""
