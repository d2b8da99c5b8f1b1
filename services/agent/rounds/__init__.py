"""One leased task from its verification to its acknowledgement."""
