"""The agent's rules. Pure: no input or output."""
