"""The quantiser's laws: exact sums, unbiased rounding, a norm bound that always holds, no wrap, no silent NaN."""

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.effort import examples
from undersong.shared.secagg.quantise import (
    MIN_BOUND,
    TAIL_LENGTH,
    NoHeadroom,
    NonFinite,
    OutOfRange,
    decode,
    decode_sums,
    encode,
    encode_multiples,
    encode_sums,
    pack,
    plan_encoding,
    plan_norm,
    plan_sums,
    signed,
    squared_norm_bound,
    sums_length,
    unpack,
)
from undersong.shared.wire.manifest import Encoding

KEY = bytes(range(32))
VECTORS = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32))


@st.composite
def encodings(draw) -> Encoding:
    bits = draw(st.sampled_from([16, 24, 32, 64]))
    room = 2 ** (bits - 1) // MIN_BOUND
    summands = draw(st.integers(1, min(200, room - 1)))
    return plan_encoding(
        summands=summands,
        max_weight=draw(st.integers(1, min(1000, (2 ** (bits - 1) - 1) // (summands * MIN_BOUND)))),
        clip_norm=draw(st.none() | st.floats(1e-3, 1e6)),
        bound_value=draw(st.floats(1e-3, 1e6)),
        modulus_bits=bits,
    )


@given(encodings(), VECTORS, st.data())
@settings(max_examples=examples(200))
def test_the_integers_stay_below_bound_and_norm(encoding, vector, data) -> None:
    weight = data.draw(st.integers(1, encoding.max_weight))
    made = encode(vector, weight, encoding, key=os.urandom(32))
    integers = signed(made.ring[:-TAIL_LENGTH], encoding.modulus_bits).astype(object)
    assert all(value % weight == 0 for value in integers)
    assert max(abs(value) for value in integers) <= weight * encoding.bound
    squared = sum((value // weight) ** 2 for value in integers)
    assert squared <= squared_norm_bound(encoding, vector.size)


@given(encodings(), st.data())
@settings(max_examples=examples(100))
def test_the_greatest_sum_does_not_wrap(encoding, data) -> None:
    """Every site at its largest, all with the same sign: the decoded mean is the bound itself."""
    sign = data.draw(st.sampled_from([-1, 1]))
    largest = encoding.bound / encoding.scale
    one = encode(
        np.full(3, sign * largest * 2, np.float32), encoding.max_weight, encoding, key=os.urandom(32), loss=1e5
    )
    total = (one.ring.astype(object) * encoding.max_summands).tolist()
    wrapped = np.array([value % 2 ** (8 * one.ring.itemsize) for value in total], one.ring.dtype)
    opened = decode(wrapped, encoding, encoding.max_summands)
    assert opened.weight == encoding.max_summands * encoding.max_weight
    assert opened.clipped == encoding.max_summands
    assert opened.loss == pytest.approx(1e5)
    limit = largest if encoding.clip_norm is None else min(largest, encoding.clip_norm)
    assert np.abs(opened.mean).max() <= limit * (1 + 2 / MIN_BOUND)
    assert (np.sign(opened.mean) == sign).all()


@given(st.sampled_from([16, 24, 32, 64]), st.integers(1, 6), st.integers(1, 5), st.integers(1, 30), st.data())
@settings(max_examples=examples(60))
def test_sums_are_exact(bits, sites, max_weight, length, data) -> None:
    """The decoded mean is exactly the weighted mean of the integers, whichever sites take part."""
    encoding = plan_encoding(summands=6, max_weight=5, clip_norm=None, bound_value=1.0, modulus_bits=bits)
    total, exact, weights, losses = None, np.zeros(length, object), [], []
    for _ in range(sites):
        vector = data.draw(hnp.arrays(np.float32, length, elements=st.floats(-1, 1, width=32)))
        weight, loss = data.draw(st.integers(1, max_weight)), data.draw(st.integers(0, 5000)) / 1000
        ring = encode(vector, weight, encoding, key=os.urandom(32), loss=loss).ring
        total = ring.copy() if total is None else total + ring
        exact += signed(ring[:length], bits).astype(object)
        weights.append(weight)
        losses.append(weight * loss)
    opened = decode(total, encoding, sites)
    assert opened.weight == sum(weights)
    assert opened.loss == pytest.approx(sum(losses) / sum(weights), abs=1e-9)
    assert opened.mean.tolist() == [
        pytest.approx(float(value) / (encoding.scale * sum(weights)), rel=1e-6, abs=1e-12) for value in exact
    ]


def test_rounding_has_no_bias() -> None:
    """The mean over draws comes to the real value within five standard errors, for every fraction."""
    encoding = plan_encoding(summands=10, max_weight=1, clip_norm=1000.0, bound_value=None, modulus_bits=16)
    vector = np.linspace(-2.5, 2.5, 4096).astype(np.float32) / np.float32(encoding.scale)
    draws = 400
    total = np.zeros(vector.size)
    for _ in range(draws):
        total += signed(encode(vector, 1, encoding, key=os.urandom(32)).ring[:-TAIL_LENGTH], 16)
    error = total / draws - vector.astype(np.float64) * encoding.scale
    assert np.abs(error).max() < 5.5 * 0.5 / math.sqrt(draws)
    assert abs(error.mean()) < 5 * 0.5 / math.sqrt(draws * vector.size)


def test_the_same_key_gives_the_same_integers() -> None:
    """A retry after a crash would send the same bytes, and another key other ones."""
    encoding = plan_encoding(summands=3, max_weight=1, clip_norm=1.0, bound_value=None, modulus_bits=16)
    vector = np.linspace(-0.1, 0.1, 20_000).astype(np.float32)
    first, again, other = (encode(vector, 1, encoding, key=key).ring for key in (KEY, KEY, KEY[::-1]))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 9_000, 20_000 - 1])
def test_a_number_that_is_not_finite_is_an_error(bad, place) -> None:
    encoding = plan_encoding(summands=3, max_weight=1, clip_norm=1.0, bound_value=None, modulus_bits=32)
    vector = np.zeros(20_000, np.float32)
    vector[place] = bad
    with pytest.raises(NonFinite):
        encode(vector, 1, encoding, key=KEY)
    with pytest.raises(NonFinite):
        encode(np.zeros(3, np.float32), 1, encoding, key=KEY, loss=bad)


def test_clipping_is_told() -> None:
    encoding = plan_encoding(summands=3, max_weight=1, clip_norm=1.0, bound_value=0.5, modulus_bits=32)
    for vector, clipped in (([0.4, 0.4], False), ([0.9, 0.9], True), ([0.6, 0.0], True), ([0.5, 0.0], False)):
        assert encode(np.array(vector, np.float32), 1, encoding, key=KEY).clipped is clipped
    long = decode(encode(np.full(4, 3e38, np.float32), 1, encoding, key=KEY).ring, encoding, 1)
    assert np.linalg.norm(long.mean) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("weight", [0, -1, 11])
def test_a_weight_outside_its_limits_is_refused(weight) -> None:
    encoding = plan_encoding(summands=3, max_weight=10, clip_norm=1.0, bound_value=None, modulus_bits=32)
    with pytest.raises(OutOfRange):
        encode(np.zeros(3, np.float32), weight, encoding, key=KEY)


def test_no_headroom_is_refused() -> None:
    with pytest.raises(NoHeadroom, match="raise modulus_bits"):
        plan_encoding(summands=100, max_weight=10, clip_norm=1.0, bound_value=None, modulus_bits=16)
    with pytest.raises(NoHeadroom, match="give clip_norm"):
        plan_encoding(summands=3, max_weight=1, clip_norm=None, bound_value=None, modulus_bits=32)


def test_a_sum_that_no_honest_site_could_make_is_refused() -> None:
    encoding = plan_encoding(summands=3, max_weight=2, clip_norm=None, bound_value=1.0, modulus_bits=32)
    ring = encode(np.ones(4, np.float32), 2, encoding, key=KEY).ring
    with pytest.raises(OutOfRange):
        decode(ring, encoding, 3)  # weight 2 cannot be of three sites
    too_large = ring.copy()
    too_large[0] += np.uint32(5)
    with pytest.raises(OutOfRange):
        decode(too_large, encoding, 1)


@given(st.sampled_from([16, 24, 32, 64]), st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_packing_comes_back(bits, words) -> None:
    ring = np.array([word % 2**bits for word in words], {16: "u2", 24: "u4", 32: "u4", 64: "u8"}[bits])
    packed = pack(ring, bits)
    assert packed.nbytes == len(words) * bits // 8
    assert bytes(packed) == b"".join((word % 2**bits).to_bytes(bits // 8, "little") for word in words)
    assert unpack(packed, bits).tolist() == ring.tolist()


@pytest.mark.parametrize("bits", [16, 24, 32, 64])
def test_part_of_a_word_is_refused(bits) -> None:
    with pytest.raises(OutOfRange):
        unpack(b"\0" * (bits // 8 + 1), bits)


@given(st.lists(hnp.arrays(np.float64, 5, elements=st.floats(-1e20, 1e20)), min_size=1, max_size=8))
def test_sums_of_any_size_add_up(vectors) -> None:
    encoding = plan_sums(summands=8)
    words = [encode_sums(vector, encoding) for vector in vectors]
    assert all(word.size == sums_length(5) for word in words)
    total = decode_sums(sum(words[1:], words[0]), encoding)
    size = max(float(np.abs(vector).max()) for vector in vectors)
    assert np.abs(total - np.sum(vectors, axis=0)).max() <= 8 * (2**-24 + size * 2**-50)


@pytest.mark.parametrize("bound", [1000, 2**60])
def test_multiples_beyond_the_bound_are_cut_off_and_never_refused(bound) -> None:
    """A refusal would tell without noise on which side of a bound that the coordinator chose the sum is."""
    encoding = Encoding(modulus_bits=64, max_summands=3, bound=bound, scale=1000.0, max_weight=1)
    words = encode_multiples(np.array([0.5, 7.0, -7.0, 1e300, -1e300]), encoding).view(np.int64)
    most = min(bound, 2**52)
    assert words.tolist() == [500, min(7000, most), -min(7000, most), most, -most]
    with pytest.raises(NonFinite):
        encode_multiples(np.array([math.nan]), encoding)


def test_a_limit_too_small_for_any_grid_is_refused() -> None:
    for plan in (
        lambda: plan_norm(summands=3, clip_norm=5e-324),
        lambda: plan_encoding(summands=3, max_weight=1, clip_norm=None, bound_value=5e-324, modulus_bits=32),
    ):
        with pytest.raises(NoHeadroom, match="too small"):
            plan()


def test_sums_refuse_what_they_cannot_carry() -> None:
    with pytest.raises(NonFinite):
        encode_sums(np.array([1.0, math.nan]), plan_sums(summands=3))
    with pytest.raises(OutOfRange):
        encode_sums(np.array([1e30]), plan_sums(summands=3))
