"""The compiled field against plain integers, and both against the definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.shared.fields.field64 import P
from undersong.shared.vdaf.bases import Lagrange, Monomial, power_of_two
from undersong.shared.vdaf.errors import VdafMalformed
from undersong.shared.vdaf.field import FIELD32, FIELD40, FIELD128, Field, IntegerField
from undersong.shared.vdaf.field64 import FIELD64
from undersong.shared.vdaf.projections64 import STRETCH

PLAIN = IntegerField("plain", P, pow(7, 4294967295, P), 32, 8)
FIELDS = [FIELD64, FIELD128, FIELD32, FIELD40]
EDGES = [0, 1, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 0x7FFF7FFF7FFF7FFF, 0x7FFF7FFF7FFF8000, P - 2**32, P - 2, P - 1]
elements = st.one_of(st.sampled_from(EDGES), st.integers(0, P - 1))
vectors = st.lists(elements, min_size=1, max_size=40)


def at(field: Field, coefficients: list[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % field.modulus
    return value


def random_integers(field: Field, n: int, seed: int = 0) -> list[int]:
    stream = np.random.default_rng(seed)
    return [int.from_bytes(stream.bytes(32), "little") % field.modulus for _ in range(n)]


@settings(deadline=None)
@given(vectors, st.data())
def test_compiled_arithmetic_is_that_of_integers(a: list[int], data: st.DataObject) -> None:
    b = data.draw(st.lists(elements, min_size=len(a), max_size=len(a)))
    offset = data.draw(st.integers(-(2**70), 2**70))
    for name in ("add", "subtract", "multiply"):
        fast = getattr(FIELD64, name)(FIELD64.vector(a), FIELD64.vector(b))
        assert fast.tolist() == list(getattr(PLAIN, name)(PLAIN.vector(a), PLAIN.vector(b))), name
    assert FIELD64.shift(FIELD64.vector(a), offset).tolist() == [(x + offset) % P for x in a]
    assert FIELD64.dot(FIELD64.vector(a), FIELD64.vector(b)) == sum(x * y for x, y in zip(a, b, strict=True)) % P
    assert FIELD64.total(FIELD64.vector(a)) == sum(a) % P
    assert FIELD64.powers(b[0], len(a)).tolist() == [pow(b[0], k, P) for k in range(len(a))]


@settings(deadline=None, max_examples=examples(40))
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_compiled_sums_over_rows_are_those_of_integers(n: int, m: int, data: st.DataObject) -> None:
    flat = data.draw(st.lists(elements, min_size=n * 2 * m, max_size=n * 2 * m))
    weights = data.draw(st.lists(elements, min_size=n, max_size=n))
    fast, plain = FIELD64.vector(flat).reshape(n, 2 * m), PLAIN.vector(flat).reshape(n, 2 * m)
    assert FIELD64.sum_products(fast).tolist() == list(PLAIN.sum_products(plain))
    assert FIELD64.sum_squares(fast).tolist() == list(PLAIN.sum_squares(plain))
    assert FIELD64.sum_squares(fast[:, 1:]).tolist() == list(PLAIN.sum_squares(plain[:, 1:]))
    combined = FIELD64.combine(FIELD64.vector(weights), fast)
    assert combined.tolist() == list(PLAIN.combine(PLAIN.vector(weights), plain))


@pytest.mark.parametrize("n", [1, 2, 4, 8, 64, 256])
@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_the_transform_evaluates(field: Field, n: int) -> None:
    columns = [random_integers(field, n, seed) for seed in (1, 2, 3)]
    columns[2][: len(EDGES)] = [edge % field.modulus for edge in EDGES[:n]]
    rows = np.stack([field.vector(column) for column in columns], axis=1)
    values = field.transform(rows)
    points = [pow(field.root(n), k, field.modulus) for k in range(n)]
    for j, column in enumerate(columns):
        assert field.integers(values[:, j].copy()) == [at(field, column, x) for x in points]
    assert (field.transform(values, inverse=True) == rows).all()
    halfway = field.between(values)
    odd = [pow(field.root(2 * n), 2 * k + 1, field.modulus) for k in range(n)]
    for j, column in enumerate(columns):
        assert field.integers(halfway[:, j].copy()) == [at(field, column, x) for x in odd]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
@pytest.mark.parametrize(("degree", "p"), [(1, 4), (2, 2), (2, 16), (3, 4), (3, 8), (5, 8)])
def test_both_encodings_say_the_same_of_a_polynomial(field: Field, degree: int, p: int) -> None:
    length = degree * (p - 1) + 1
    n = power_of_two(length)
    coefficients = random_integers(field, length)
    padded = field.zeros(n)
    padded[:length] = field.vector(coefficients)
    values = field.transform(padded.reshape(n, 1))[:, 0].copy()
    t = random_integers(field, 1, seed=7)[0]
    points = [pow(field.root(p), k, field.modulus) for k in range(p)]
    for basis in (Monomial(), Lagrange()):
        encoded = basis.write(field, values, length)
        assert encoded.shape[0] == length
        assert field.integers(basis.outputs(field, encoded, p)) == [at(field, coefficients, x) for x in points]
        assert basis.at(field, encoded, t) == at(field, coefficients, t)
    assert field.integers(Monomial().write(field, values, length)) == coefficients


@pytest.mark.parametrize("d", [1, 3, 4, 5, 4 * STRETCH - 1, 4 * STRETCH, 4 * STRETCH + 1, 8 * STRETCH + 6])
@pytest.mark.parametrize("kind", ["edges", "random", "small"])
def test_wraparound_sums_are_those_of_the_definition(d: int, kind: str) -> None:
    stream = np.random.default_rng(d)
    drawn = {
        "edges": lambda: [EDGES[i] for i in stream.integers(0, len(EDGES), d)],
        "random": lambda: random_integers(FIELD64, d, d),
        "small": lambda: stream.integers(-(2**31), 2**31, d).tolist(),
    }[kind]()
    bits = np.frombuffer(stream.bytes(3 * -(-d // 4)), np.uint8).reshape(3, -1)
    got = FIELD64.project(FIELD64.vector(drawn), bits).tolist()
    assert got == list(PLAIN.project(PLAIN.vector(drawn), bits))
    coefficients = [(-1, 0, 0, 1)[bits[0, k // 4] >> 2 * (k % 4) & 3] for k in range(d)]
    assert got[0] == sum(s * x for s, x in zip(coefficients, drawn, strict=True)) % P


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_signed_integers_and_squared_norms(values: list[int]) -> None:
    array, exact = np.array(values, np.int64), sum(value * value for value in values)
    assert FIELD64.signed(array).tolist() == [value % P for value in values]
    squared = FIELD64.squared_norm(array)
    assert squared == exact or min(squared, exact) >= 2**63 - 2**12


@settings(deadline=None, max_examples=examples(30))
@given(st.sampled_from(FIELDS), st.data())
def test_encoding_goes_there_and_back(field: Field, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, field.modulus - 1), max_size=20))
    encoded = field.encode(field.vector(values))
    assert encoded == b"".join(value.to_bytes(field.size, "little") for value in values)
    assert field.integers(field.decode(encoded)) == values
    too_large = data.draw(st.integers(field.modulus, 2 ** (8 * field.size) - 1))
    with pytest.raises(VdafMalformed, match="modulus"):
        field.decode(encoded + too_large.to_bytes(field.size, "little"))
    with pytest.raises(VdafMalformed, match="within an element"):
        field.decode(encoded + b"\0")


def test_a_misaligned_or_read_only_buffer_decodes() -> None:
    data = bytes(3) + FIELD64.encode(FIELD64.vector(EDGES))
    assert FIELD64.decode(memoryview(data)[3:]).tolist() == EDGES


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_roots_of_unity_have_their_order(field: Field) -> None:
    for n in (2, 64, 2**20):
        assert pow(field.root(n), n // 2, field.modulus) == field.modulus - 1
    with pytest.raises(ValueError, match="no root"):
        field.root(3)
