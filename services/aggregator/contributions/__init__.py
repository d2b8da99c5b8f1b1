"""Updates: how they come in, where their bodies lie, and how they are added."""
