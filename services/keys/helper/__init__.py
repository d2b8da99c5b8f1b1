"""The helper: the second server of a round, a process with a store and an identity of its own."""
