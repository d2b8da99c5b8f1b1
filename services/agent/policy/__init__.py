"""The owner's policy: its file, its signatures, and what it says in plain sentences."""
