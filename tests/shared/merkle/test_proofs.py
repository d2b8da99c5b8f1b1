"""Trees against the published roots of the Certificate Transparency reference tests, and by law."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undersong.shared.merkle import proofs as merkle

# The eight entries and roots that Certificate Transparency implementations are tried on.
ENTRIES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [merkle.leaf_hash(bytes.fromhex(entry)) for entry in ENTRIES]

trees = st.integers(1, 70).map(lambda n: [merkle.leaf_hash(i.to_bytes(2)) for i in range(n)])


def recursive_root(leaves: list[bytes]) -> bytes:
    """The definition, word for word, as a second opinion."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return merkle.node_hash(recursive_root(leaves[:k]), recursive_root(leaves[k:]))


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_equal_the_published_ones(size: int) -> None:
    assert merkle.root(LEAVES[:size]).hex() == ROOTS[size - 1]


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    assert merkle.root([]) == hashlib.sha256(b"").digest()


@given(trees)
def test_the_root_is_the_recursive_definition(leaves: list[bytes]) -> None:
    assert merkle.root(leaves) == recursive_root(leaves)


@given(trees, st.data())
def test_every_leaf_is_provable_and_no_other(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = merkle.inclusion_proof(index, len(leaves), merkle.stored(leaves))
    root = merkle.root(leaves)
    merkle.verify_inclusion(leaves[index], index, len(leaves), path, root)
    with pytest.raises(merkle.MerkleProofInvalid):
        merkle.verify_inclusion(merkle.leaf_hash(b"another"), index, len(leaves), path, root)
    with pytest.raises(merkle.MerkleProofInvalid):
        merkle.verify_inclusion(leaves[index], index, len(leaves), [*path, root], root)


@given(trees, st.data())
def test_growth_is_provable_and_a_rewrite_is_not(leaves: list[bytes], data: st.DataObject) -> None:
    old = data.draw(st.integers(1, len(leaves)))
    path = merkle.consistency_proof(old, len(leaves), merkle.stored(leaves))
    old_root, new_root = merkle.root(leaves[:old]), merkle.root(leaves)
    merkle.verify_consistency(old, len(leaves), old_root, new_root, path)
    rewritten = [merkle.leaf_hash(b"rewritten"), *leaves[1:]]
    with pytest.raises(merkle.MerkleProofInvalid):
        merkle.verify_consistency(old, len(leaves), merkle.root(rewritten[:old]), new_root, path)
    if old < len(leaves):
        with pytest.raises(merkle.MerkleProofInvalid):
            merkle.verify_consistency(old, len(leaves), old_root, merkle.root(rewritten), path)


def test_a_proof_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        merkle.inclusion_proof(3, 3, merkle.stored(LEAVES[:3]))
    with pytest.raises(merkle.MerkleProofInvalid):
        merkle.verify_consistency(0, 3, merkle.EMPTY_ROOT, merkle.root(LEAVES[:3]), [])


@given(trees, st.data())
def test_a_frontier_has_the_trees_root_at_every_size_and_can_be_stored(
    leaves: list[bytes], data: st.DataObject
) -> None:
    stop = data.draw(st.integers(0, len(leaves)))
    frontier = merkle.Frontier()
    for leaf in leaves[:stop]:
        frontier.append(leaf)
    assert frontier.root() == merkle.root(leaves[:stop])
    again = merkle.Frontier(frontier.size, frontier.nodes)
    for leaf in leaves[stop:]:
        again.append(leaf)
        assert again.root() == merkle.root(leaves[: again.size])


@pytest.mark.parametrize(
    ("size", "nodes"), [(1, []), (0, [bytes(32)]), (3, [bytes(32)]), (1, [b""]), (-1, [bytes(32)])]
)
def test_a_frontier_of_another_size_is_refused(size: int, nodes: list[bytes]) -> None:
    with pytest.raises(ValueError, match="subtrees"):
        merkle.Frontier(size, nodes)
