"""Textbook zero-knowledge proofs over ristretto255."""
