"""Pairwise masks that cancel in the sum, with a witness: suite `undersong-pairwise-1`."""
