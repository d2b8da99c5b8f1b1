"""A Merkle tree kept as its complete subtrees, so that heads and proofs of a long log cost a few look-ups.

Node (level, position) covers the leaves [position * 2**level, (position + 1) * 2**level). A store keeps those whose
leaves are all there; they never change. Every range that a proof asks for is a row of such nodes.
"""

from collections.abc import Iterable, Iterator, Mapping

from undersong.shared.merkle import proofs as merkle

Node = tuple[int, int]


def grown(index: int, leaf: bytes, known: Mapping[Node, bytes]) -> Iterator[tuple[Node, bytes]]:
    """Yield the nodes that become complete with leaf `index`, from the leaf up; `known` holds
    `left_siblings(index)`.
    """
    level, position, value = 0, index, leaf
    yield (0, index), leaf
    while position & 1:
        value = merkle.node_hash(known[level, position - 1], value)
        level, position = level + 1, position >> 1
        yield (level, position), value


def left_siblings(index: int) -> list[Node]:
    """Return the stored nodes that `grown` needs for leaf `index`."""
    found: list[Node] = []
    level, position = 0, index
    while position & 1:
        found.append((level, position - 1))
        level, position = level + 1, position >> 1
    return found


def cover(start: int, end: int) -> list[Node]:
    """Return the complete nodes that make up the leaves [start, end), left to right."""
    found: list[Node] = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        found.append((level, start >> level))
        start += 1 << level
    return found


def hash_of(start: int, end: int, known: Mapping[Node, bytes]) -> bytes:
    """Return the hash over the leaves [start, end), a range as the split of RFC 9162 makes it, out of the nodes
    `cover`.
    """
    if start == end:
        return merkle.EMPTY_ROOT
    *before, last = cover(start, end)
    value = known[last]
    for node in reversed(before):
        value = merkle.node_hash(known[node], value)
    return value


def nodes_of(ranges: Iterable[tuple[int, int]]) -> list[Node]:
    """Return all nodes that these ranges need, each once."""
    return sorted({node for start, end in ranges for node in cover(start, end)})


class RangeRecorder:
    """A `merkle.Subtree` that only notes which ranges a proof asks for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __call__(self, start: int, end: int) -> bytes:
        """Note the range."""
        self.asked.append((start, end))
        return b""
