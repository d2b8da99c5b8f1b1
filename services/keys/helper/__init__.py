"""The helper: the second server of rounds of engine `twoserver`, a process with a store and an identity of its own."""
