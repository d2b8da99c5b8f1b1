"""The peer's null-training app."""
