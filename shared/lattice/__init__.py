"""Lattice encryption of vectors whose sums can be opened: the ring, packing, and Shamir's shares of its elements."""
