"""Compiled rounding gives the integers of the plain code, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.shared.secagg import rounding
from undersong.shared.secagg.quantise import encode, plan_encoding
from undersong.shared.secagg.rounding import Uniforms, round_into

KEY = bytes(range(32))


@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 7, 8_191, 8_192, 8_193, 20_000]),
    st.sampled_from([np.uint16, np.uint32, np.uint64]),
    st.floats(1e-6, 1e9),
    st.integers(1, 1000),
    st.none() | st.integers(2**7, 2**30),
)
@settings(max_examples=examples(60), deadline=None)
def test_both_ways_agree(seed, length, word, factor, weight, clamp) -> None:
    vector = np.random.default_rng(seed).standard_cauchy(length).astype(np.float32)
    vector = np.clip(vector, -(2**30) / factor, 2**30 / factor).astype(np.float32)
    found = []
    for start in (length, length + 1):  # a vector of this length is compiled, or is not
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rounding, "COMPILED_FROM", start)
            ring = np.zeros(length, word)
            square = round_into(ring, vector, factor, weight, clamp, Uniforms(KEY, 0))
            found.append((ring, square))
    (compiled, one), (plain, other) = found
    assert np.array_equal(compiled, plain)
    assert one == pytest.approx(other, rel=1e-12)


@pytest.mark.parametrize("bits", [16, 24, 32, 64])
@pytest.mark.parametrize("larger", [0.5, 3.0])
def test_a_long_vector_is_encoded_alike_where_nothing_is_compiled(bits, larger, monkeypatch) -> None:
    """With and without clipping; a reversed, read-only view is as good as an array."""
    encoding = plan_encoding(summands=3, max_weight=9, clip_norm=2.0, bound_value=None, modulus_bits=bits)
    vector = np.random.default_rng(bits).normal(size=rounding.COMPILED_FROM + 11).astype(np.float32)[::-1]
    vector *= np.float32(larger / np.linalg.norm(vector))
    vector.setflags(write=False)
    compiled = encode(vector, 9, encoding, key=KEY)
    monkeypatch.setattr(rounding, "kernels_installed", lambda: False)
    plain = encode(vector, 9, encoding, key=KEY)
    assert compiled.clipped is plain.clipped is (larger > 2)
    assert np.array_equal(compiled.ring, plain.ring)
