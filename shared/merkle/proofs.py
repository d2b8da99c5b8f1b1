"""Merkle trees of a transparency log: roots, inclusion and consistency proofs.

Source: RFC 9162, section 2.1 (the same hashing as RFC 6962): a leaf is SHA-256(0x00 || entry), a node
SHA-256(0x01 || left || right), and a tree of n leaves splits at the largest power of two below n.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence

EMPTY_ROOT = hashlib.sha256().digest()
HASH_BYTES = 32
MAX_SIZE = 1 << 63
"""A tree has fewer leaves than this: sizes are 64-bit numbers in signed heads."""

Subtree = Callable[[int, int], bytes]
"""The root over leaves [start, end), by whatever store holds them."""


class MerkleProofInvalid(ValueError):
    """The proof does not lead from what is claimed to the signed root."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one entry: 32 bytes."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash over two subtrees: 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(n: int) -> int:
    """Return the largest power of two below n (n >= 2)."""
    return 1 << ((n - 1).bit_length() - 1)


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes, in order."""
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    while len(level) > 1:  # an odd last node moves up as it is, which equals the recursive split
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(level) - len(level) % 2 :]
    return level[0]


def stored(leaves: Sequence[bytes]) -> Subtree:
    """Return the subtree function of leaves held in memory."""
    return lambda start, end: root(leaves[start:end])


class Frontier:
    """The roots of a tree's complete subtrees, largest first: enough to append leaves and to know the root.

    Shapes: `nodes` holds one hash for each bit that is set in `size`.
    """

    def __init__(self, size: int = 0, nodes: Sequence[bytes] = ()) -> None:
        if size < 0 or len(nodes) != size.bit_count() or any(len(node) != HASH_BYTES for node in nodes):
            raise ValueError("these are not the subtrees of a tree of this size")
        self.size, self.nodes = size, list(nodes)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        value, size = leaf, self.size
        while size & 1:
            value, size = node_hash(self.nodes.pop(), value), size >> 1
        self.nodes.append(value)
        self.size += 1

    def root(self) -> bytes:
        """Return the root over all leaves so far."""
        if not self.nodes:
            return EMPTY_ROOT
        value = self.nodes[-1]
        for left in reversed(self.nodes[:-1]):
            value = node_hash(left, value)
        return value


def inclusion_proof(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """Return the audit path of leaf `index` in the tree of `size` leaves, from the leaf up."""
    if not 0 <= index < size:
        raise ValueError("the leaf is outside the tree")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(subtree(middle, end))
            end = middle
        else:
            path.append(subtree(start, middle))
            start = middle
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], expected: bytes) -> None:
    """Check an audit path (RFC 9162, 2.1.3.2); raises MerkleProofInvalid, also for hashes that are not 32 bytes."""
    if not 0 <= index < size < MAX_SIZE:
        raise MerkleProofInvalid("the leaf is outside the tree")
    _check_hashes((leaf, expected, *path))
    first, last, value = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise MerkleProofInvalid("the audit path is too long")
        if first & 1 or first == last:
            value = node_hash(sibling, value)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            value = node_hash(value, sibling)
        first, last = first >> 1, last >> 1
    if last or value != expected:
        raise MerkleProofInvalid("the audit path does not lead to the root")


def consistency_proof(old: int, new: int, subtree: Subtree) -> list[bytes]:
    """Nodes that show the tree of `old` leaves to be a prefix of the tree of `new` leaves."""
    if not 0 < old <= new:
        raise ValueError("a consistency proof runs from a non-empty tree to one at least as large")
    return [] if old == new else _consistency(old, 0, new, subtree, complete=True)


def _consistency(old: int, start: int, end: int, subtree: Subtree, *, complete: bool) -> list[bytes]:
    if old == end - start:
        return [] if complete else [subtree(start, end)]
    middle = start + _split(end - start)
    if old <= middle - start:
        return [*_consistency(old, start, middle, subtree, complete=complete), subtree(middle, end)]
    return [*_consistency(old - (middle - start), middle, end, subtree, complete=False), subtree(start, middle)]


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> None:
    """Check that the old tree is a prefix of the new one (RFC 9162, 2.1.4.2); raises MerkleProofInvalid, as above."""
    if not 0 < old <= new < MAX_SIZE:
        raise MerkleProofInvalid("sizes do not follow each other")
    _check_hashes((old_root, new_root, *path))
    if old == new:
        if path or old_root != new_root:
            raise MerkleProofInvalid("two roots for one size")
        return
    nodes = list(path) if old & (old - 1) else [old_root, *path]
    if not nodes:
        raise MerkleProofInvalid("the consistency proof is too short")
    if _roots_before_and_after(old, new, nodes) != (old_root, new_root):
        raise MerkleProofInvalid("the log was rewritten between the two heads")


def _check_hashes(hashes: Iterable[bytes]) -> None:
    if any(len(value) != HASH_BYTES for value in hashes):
        raise MerkleProofInvalid(f"a hash has {HASH_BYTES} bytes")


def _roots_before_and_after(old: int, new: int, nodes: Sequence[bytes]) -> tuple[bytes, bytes]:
    first, last = old - 1, new - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    before = after = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            raise MerkleProofInvalid("the consistency proof is too long")
        if first & 1 or first == last:
            before, after = node_hash(node, before), node_hash(node, after)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            after = node_hash(after, node)
        first, last = first >> 1, last >> 1
    if last:
        raise MerkleProofInvalid("the consistency proof is too short")
    return before, after
