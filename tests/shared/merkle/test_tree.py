"""Trees kept as complete subtrees give the published roots, and the proofs of the plain definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shared.merkle.test_proofs import LEAVES, ROOTS
from undersong.shared.merkle import proofs as merkle
from undersong.shared.merkle import tree


def stored(leaves: list[bytes]) -> dict[tree.Node, bytes]:
    known: dict[tree.Node, bytes] = {}
    for index, leaf in enumerate(leaves):
        known.update(tree.grown(index, leaf, {node: known[node] for node in tree.left_siblings(index)}))
    return known


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_equal_the_published_ones(size: int) -> None:
    known = stored(LEAVES)
    assert tree.hash_of(0, size, {node: known[node] for node in tree.cover(0, size)}).hex() == ROOTS[size - 1]


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    assert tree.hash_of(0, 0, {}) == merkle.EMPTY_ROOT
    assert tree.cover(0, 0) == []


@given(st.integers(1, 70), st.data())
def test_proofs_equal_those_over_plain_leaves(size: int, data: st.DataObject) -> None:
    leaves = [merkle.leaf_hash(i.to_bytes(2)) for i in range(size)]
    known, index = stored(leaves), data.draw(st.integers(0, size - 1))
    asked = tree.RangeRecorder()
    merkle.inclusion_proof(index, size, asked)
    given_nodes = {node: known[node] for node in tree.nodes_of(asked.asked)}
    path = merkle.inclusion_proof(index, size, lambda start, end: tree.hash_of(start, end, given_nodes))
    assert path == merkle.inclusion_proof(index, size, merkle.stored(leaves))
    old = data.draw(st.integers(1, size))
    path = merkle.consistency_proof(old, size, lambda start, end: tree.hash_of(start, end, known))
    assert path == merkle.consistency_proof(old, size, merkle.stored(leaves))
    merkle.verify_consistency(old, size, merkle.root(leaves[:old]), merkle.root(leaves), path)
