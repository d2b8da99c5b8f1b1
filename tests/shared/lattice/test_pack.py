"""Every packing: exact sums up to the very edge of its room, and its coefficients as the reference writes them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.shared.lattice import reference
from undersong.shared.lattice.pack import is_right, pack, residue, unpack
from undersong.shared.lattice.packings import PACKINGS, ROOM, SIGMA, N, Packing
from undersong.shared.lattice.ring import Q, Words

EVERY = pytest.mark.parametrize("packing", PACKINGS.values(), ids=str)


def summed(blocks: list[Words]) -> Words:
    return (np.sum([block.astype(object) for block in blocks], axis=0) % Q).astype(np.uint64)


@EVERY
def test_coefficients_are_those_of_the_reference(packing: Packing) -> None:
    rng, length = np.random.default_rng(3), 5000
    values = rng.integers(-1000, 1000, length)
    noise = rng.integers(-56, 57, packing.polynomials(length) * N)
    limbs = values.tolist()
    if packing.limbs == 2:
        limbs = [value % 2**32 for value in limbs] + [value >> 32 for value in limbs]
    made = pack(packing, values, noise)
    assert made.reshape(-1).tolist() == reference.packed(limbs, noise.tolist(), packing.fields, packing.width)
    np.testing.assert_array_equal(unpack(packing, iter(made.reshape(1, -1, N)), length), values)


@EVERY
@settings(max_examples=examples(12), deadline=None)
@given(data=st.data())
def test_sums_are_exact_at_the_edge_of_values_and_of_noise(packing: Packing, data: st.DataObject) -> None:
    sites = data.draw(st.integers(1, 6))
    length = data.draw(st.sampled_from([1, 2, 3, 40, N * packing.fields // packing.limbs + 1]))
    reach = (1 << (packing.width - 1)) // sites - 1 if packing.limbs == 1 else (1 << 63) // sites - 1
    spread = ((1 << (packing.delta_bits - 1)) - 1) // sites
    seed = data.draw(st.integers(0, 2**32))
    rng, size = np.random.default_rng(seed), packing.polynomials(length) * N
    words = [rng.choice([-reach, -1, 0, reach], length).astype(np.int64) for _ in range(sites)]
    made = [pack(packing, word, rng.choice([-spread, spread], size).astype(np.int64)) for word in words]
    total = summed(made)
    np.testing.assert_array_equal(unpack(packing, iter([total]), length), np.sum(words, axis=0))


@EVERY
def test_the_room_is_as_stated(packing: Packing) -> None:
    sites = packing.most_by_noise()
    for more, fits in ((0, True), (1, False)):
        assert (ROOM * SIGMA * (sites + more) ** 0.5 <= 2.0 ** (packing.delta_bits - 1)) == fits
    assert packing.delta_bits > 0
    assert packing.most_by_width(1 << (packing.width - 4)) == (7 if packing.limbs == 1 else 2**15 - 1)


def test_the_table_of_the_documentation() -> None:
    """Fields, width, binary logarithm of delta, bytes a word, sites by noise."""
    found = {
        bits: (each.fields, each.width, each.delta_bits, 8 * each.limbs / each.fields, each.most_by_noise())
        for bits, each in PACKINGS.items()
    }
    assert found == {
        16: (3, 17, 12, 8 / 3, 2196),
        24: (2, 26, 11, 4.0, 549),
        32: (1, 34, 29, 8.0, 37732613166497),
        64: (1, 48, 15, 16.0, 140564),
    }


@EVERY
def test_a_wrong_sum_is_told_from_a_right_one(packing: Packing) -> None:
    rng = np.random.default_rng(7)
    sites = min(packing.most_by_noise(), 10**6)
    noise = np.rint(rng.normal(0, SIGMA * sites**0.5, N)).astype(np.int64)
    right = pack(packing, np.zeros(0, np.int64), noise)[0]
    assert is_right(packing, right)
    assert residue(packing, right) == pytest.approx(SIGMA * sites**0.5, rel=0.1)
    assert not is_right(packing, rng.integers(0, Q, N, np.uint64))
