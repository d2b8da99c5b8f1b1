"""Merkle trees of RFC 6962: roots, inclusion proofs, consistency proofs, and a tree that is stored node by node."""
