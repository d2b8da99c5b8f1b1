"""Prio3's laws: the sum is exact whatever the shares, a false measurement is refused however it is shared."""

import copy
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.shared.vdaf.runs import Report, report, result, verify
from undersong.shared.vdaf.bases import Basis, Lagrange, Monomial
from undersong.shared.vdaf.circuits import Circuit, Count, HistogramCircuit, MultihotCountVec, Sum, SumVec
from undersong.shared.vdaf.errors import InputOutOfRange, VdafMalformed, VdafRejected
from undersong.shared.vdaf.field import FIELD32, FIELD128, Field
from undersong.shared.vdaf.field64 import FIELD64
from undersong.shared.vdaf.flp import Flp
from undersong.shared.vdaf.prio3 import (
    Prio3,
    Prio3Count,
    Prio3Histogram,
    Prio3MultihotCountVec,
    Prio3Sum,
    Prio3SumVec,
    Prio3SumVecWithMultiproof,
)

SCHEMES: dict[str, tuple[Prio3, list[Any], Any]] = {
    "count": (Prio3Count(3), [1, 0, 1, 1], 3),
    "sum": (Prio3Sum(2, max_measurement=1337), [0, 1337, 100], 1437),
    "sum of one bit": (Prio3Sum(2, max_measurement=1), [1, 1, 0], 2),
    "vector": (Prio3SumVec(2, length=3, max_measurement=10, chunk_length=5), [[0, 5, 10], [1, 1, 1]], [1, 6, 11]),
    "histogram": (Prio3Histogram(4, length=5, chunk_length=2), [0, 4, 4], [1, 0, 0, 0, 2]),
    "flags": (
        Prio3MultihotCountVec(2, length=4, max_weight=3, chunk_length=9),
        [[True, False, True, True], [False, False, False, False], [True, False, False, False]],
        [2, 0, 1, 1],
    ),
    "many proofs": (
        Prio3SumVecWithMultiproof(3, num_proofs=3, length=2, max_measurement=7, chunk_length=3),
        [[7, 0], [7, 1]],
        [14, 1],
    ),
}
OUT_OF_RANGE: dict[str, list[Any]] = {
    "count": [2, -1],
    "sum": [1338, -1],
    "sum of one bit": [2],
    "vector": [[0, 11, 0], [0, 1], [-1, 0, 0]],
    "histogram": [5, -1],
    "flags": [[True] * 4, [True], [2, 0, 0, 0]],
    "many proofs": [[8, 0]],
}


@pytest.mark.parametrize("name", SCHEMES)
def test_the_result_is_the_sum(name: str) -> None:
    scheme, measurements, expected = SCHEMES[name]
    assert result(scheme, [report(scheme, measurement) for measurement in measurements]) == expected


@pytest.mark.parametrize("name", SCHEMES)
def test_an_honest_client_cannot_shard_what_is_out_of_range(name: str) -> None:
    for measurement in OUT_OF_RANGE[name]:
        with pytest.raises(InputOutOfRange):
            report(SCHEMES[name][0], measurement)


def lying(circuit: Circuit, encoded: list[int]) -> Circuit:
    """The circuit, with what the cheater likes as its encoding."""
    liar = copy.copy(circuit)
    liar.encode = lambda measurement: circuit.field.vector(encoded)  # type: ignore[method-assign]
    return liar


LIES: list[tuple[str, Circuit, list[int]]] = [
    ("a count of 2", Count(FIELD64), [2]),
    ("a count of -1", Count(FIELD64), [-1]),
    ("a bit of 100 in a sum", Sum(FIELD64, 255), [100, 0, 0, 0, 0, 0, 0, 0]),
    ("a bit of -1 in a vector", SumVec(FIELD128, 2, 3, 2), [1, 0, -1, 1]),
    ("half a bit", SumVec(FIELD64, 1, 1, 1), [(FIELD64.modulus + 1) // 2]),
    ("two buckets", HistogramCircuit(FIELD128, 4, 2), [1, 0, 1, 0]),
    ("no bucket", HistogramCircuit(FIELD128, 4, 2), [0, 0, 0, 0]),
    ("a bucket of 2 and one of -1", HistogramCircuit(FIELD128, 4, 2), [2, -1, 0, 0]),
    ("more flags than said", MultihotCountVec(FIELD128, 4, 2, 2), [1, 1, 1, 0, 1, 1]),
    ("more flags than allowed", MultihotCountVec(FIELD128, 4, 2, 2), [1, 1, 1, 0, 1, 2]),
]


@pytest.mark.parametrize(("name", "circuit", "lie"), LIES, ids=[lie[0] for lie in LIES])
def test_a_false_measurement_is_refused(name: str, circuit: Circuit, lie: list[int]) -> None:
    scheme, cheater = Prio3(9, circuit, 2, 2), Prio3(9, lying(circuit, lie), 2, 2)
    with pytest.raises(VdafRejected):
        verify(scheme, report(cheater, None))


@pytest.mark.parametrize("basis", [Lagrange(), Monomial()], ids=["lagrange", "monomial"])
@settings(max_examples=examples(25), deadline=None)
@given(st.sampled_from([FIELD64, FIELD128, FIELD32]), st.integers(1, 12), st.integers(1, 5), st.data())
def test_a_proof_holds_for_bits_and_for_nothing_else(
    basis: Basis, field: Field, length: int, chunk: int, data: st.DataObject
) -> None:
    """Both encodings, any number of shares: accepted exactly when every element is 0 or 1."""
    flp, shares = Flp(SumVec(field, length, 1, chunk), basis), data.draw(st.integers(2, 4))
    stream = random.Random(data.draw(st.integers(0, 2**64)))  # chosen by an adversary, it could make any proof pass

    def draw(n: int) -> Any:
        return field.vector(stream.randrange(field.modulus) for _ in range(n))

    drawn = data.draw(st.lists(st.integers(0, 2), min_size=length, max_size=length))
    measurement, proof = field.vector(drawn), field.zeros(flp.proof_length)
    joint = draw(flp.circuit.joint_rand_length)
    point = draw(1)
    flp.prove(measurement, draw(flp.prove_rand_length), joint, proof)
    verifier = field.zeros(flp.verifier_length)
    for left in range(shares - 1, -1, -1):
        m, q = (draw(length), draw(flp.proof_length)) if left else (measurement, proof)
        measurement, proof = field.subtract(measurement, m), field.subtract(proof, q)
        share = field.zeros(flp.verifier_length)
        flp.query(m, q, point, joint, shares, share)
        field.add_into(verifier, share)
    assert flp.decide(verifier) == (2 not in drawn)


@pytest.mark.parametrize("name", ["sum", "vector", "flags"])
@settings(max_examples=examples(15), deadline=None)
@given(st.data())
def test_a_changed_bit_anywhere_is_refused(name: str, data: st.DataObject) -> None:
    scheme, measurements, _ = SCHEMES[name]
    sent = report(scheme, measurements[0])
    parts = [sent.public_share, *sent.input_shares]
    where = data.draw(st.sampled_from([k for k, part in enumerate(parts) if part]))
    at = data.draw(st.integers(0, 8 * len(parts[where]) - 1))
    changed = bytearray(parts[where])
    changed[at // 8] ^= 1 << at % 8
    parts[where] = bytes(changed)
    with pytest.raises((VdafRejected, VdafMalformed)):
        verify(scheme, Report(sent.nonce, parts[0], parts[1:]))


def test_messages_of_another_length_are_malformed() -> None:
    scheme, measurements, _ = SCHEMES["vector"]
    sent = report(scheme, measurements[0])
    for broken in (
        Report(sent.nonce[:-1], sent.public_share, sent.input_shares),
        Report(sent.nonce, sent.public_share[:-1], sent.input_shares),
        Report(sent.nonce, sent.public_share, [sent.input_shares[0] + b"\0", sent.input_shares[1]]),
        Report(sent.nonce, sent.public_share, [sent.input_shares[0], sent.input_shares[1][:-1]]),
        Report(sent.nonce, sent.public_share, sent.input_shares[::-1]),
        Report(sent.nonce, sent.public_share, sent.input_shares[:1]),
    ):
        with pytest.raises(VdafMalformed):
            verify(scheme, broken)
    with pytest.raises(VdafMalformed, match="no aggregator"):
        scheme.verify_init(bytes(32), b"", 2, None, sent.nonce, sent.public_share, sent.input_shares[1])
    with pytest.raises(VdafMalformed, match="the verification state has 0 bytes"):
        scheme.decode_state(b"")
