"""The coordinator's rules: pure, with clock, randomness and knowledge of the world as arguments."""
