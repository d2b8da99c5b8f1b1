"""Every public verifier refuses every part of its input that has a wrong length."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.shared.wire.manifests import manifest as make_manifest
from undersong.shared.errors import Refusal
from undersong.shared.merkle import proofs as merkle
from undersong.shared.secagg.pairwise import roster
from undersong.shared.secagg.twoserver.messages import Accepted, Agree, Begin, Begun, SetEvidence
from undersong.shared.secagg.twoserver.report import Report
from undersong.shared.transparency import records
from undersong.shared.transparency.documents import LogHead, head_statement
from undersong.shared.vdaf.prio3 import Prio3Count, Prio3Histogram, Prio3SumVecWithMultiproof
from undersong.shared.zk import dleq, pedersen, samples, schnorr
from undersong.shared.zk.group import GENERATOR, Point, Scalar, base, second_generator
from undersong.shared.zk.oprf import BlindEvaluation, Mode, Oprf
from undersong.shared.zk.pedersen import Opening
from undersong.shared.zk.range_proof import prove_range, verify_range

LEAVES = [merkle.leaf_hash(bytes([index])) for index in range(7)]
SECRET, CONTEXT = Scalar.of(77), b"context"
ONE, SAME = Opening.fresh(41), Opening.fresh(41)
PAIRS = [Scalar.of(5) * second_generator(), Scalar.of(6) * second_generator()]
IMAGES = [SECRET * point for point in PAIRS]
KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
ROOT = merkle.root(LEAVES)
STORED = merkle.stored(LEAVES)
TRAINING = make_manifest()


def _oprf(mode: Mode) -> tuple[Callable[..., Any], list[Any]]:
    suite, blinds = Oprf(mode), [Scalar.of(3), Scalar.of(4)]
    values = [b"a", b"b"]
    blinded = [suite.blind(value, blind) for value, blind in zip(values, blinds, strict=True)]
    answer = suite.blind_evaluate(SECRET, blinded)

    def finalize(elements: list[Point], proof: bytes | None, sent: list[Point], public: Point) -> None:
        suite.finalize(values, blinds, sent, BlindEvaluation(tuple(elements), proof), public)

    return finalize, [list(answer.elements), answer.proof, blinded, base(SECRET)]


def _head(root: bytes, signature: bytes, key: bytes) -> None:
    head = LogHead.model_construct(size=7, root=root.hex(), timestamp_ms=1, keyid="0" * 64, signature=signature.hex())
    records.check_head(head, key)


def _prio3(scheme: Any, measurement: Any) -> tuple[Callable[..., Any], list[Any]]:
    key, nonce, rand = bytes(32), bytes(16), os.urandom(scheme.RAND_SIZE)
    public, shares = scheme.shard(b"", measurement, nonce, rand)

    def verify(
        key: bytes, nonce: bytes, public: bytes, leader: bytes, helper: bytes, stored: bytes, ends: bytes
    ) -> None:
        begun = [scheme.verify_init(key, b"", i, None, nonce, public, s) for i, s in enumerate((leader, helper))]
        message = scheme.verifier_shares_to_message(b"", None, [said for _, said in begun])
        scheme.verify_next(b"", scheme.decode_state(stored), message + ends)

    state, _ = scheme.verify_init(key, b"", 0, None, nonce, public, shares[0])
    return verify, [key, nonce, public, *shares, scheme.encode_state(state), b""]


def _twoserver(kind: Any, **parts: bytes) -> tuple[Callable[..., Any], list[Any]]:
    return (lambda *given: kind.unpack(kind(**dict(zip(parts, given, strict=True))).pack())), list(parts.values())


MATERIAL = {"report_id": 16, "leader_digest": 32, "keyid": 32, "signature": 64}
SHARES = {"public_share": b"", "helper_share": b""}
COMMITTED = samples.Committed.make(TRAINING, TRAINING.cohort[0], 7).message

CASES: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "merkle inclusion": (
        lambda leaf, path, expected: merkle.verify_inclusion(leaf, 4, 7, path, expected),
        [LEAVES[4], merkle.inclusion_proof(4, 7, STORED), ROOT],
    ),
    "merkle inclusion of the only leaf": (
        lambda leaf, path, expected: merkle.verify_inclusion(leaf, 0, 1, path, expected),
        [LEAVES[0], [], LEAVES[0]],
    ),
    "merkle consistency": (
        lambda old, new, path: merkle.verify_consistency(3, 7, old, new, path),
        [merkle.root(LEAVES[:3]), ROOT, merkle.consistency_proof(3, 7, STORED)],
    ),
    "merkle consistency of one size": (
        lambda old, new, path: merkle.verify_consistency(7, 7, old, new, path),
        [ROOT, ROOT, []],
    ),
    "log head": (_head, [ROOT, KEY.sign(head_statement(7, ROOT, 1)), PUBLIC]),
    "signature": (
        lambda key, signature: roster.verify(key, signature, b"said", "it"),
        [PUBLIC, KEY.sign(b"said")],
    ),
    "schnorr": (
        lambda key, proof: schnorr.verify(key, CONTEXT, b"challenge", proof),
        [base(SECRET), schnorr.prove(SECRET, CONTEXT, b"challenge")],
    ),
    "schnorr batch": (
        lambda key, proof: schnorr.verify_batch([schnorr.Possession(key, CONTEXT, b"challenge", proof)]),
        [base(SECRET), schnorr.prove(SECRET, CONTEXT, b"challenge")],
    ),
    "pedersen opened": (
        lambda commitment, value, blinding: pedersen.check_opening(commitment, Opening(value, blinding)),
        [ONE.commitment, ONE.value, ONE.blinding],
    ),
    "pedersen opening": (
        lambda commitment, proof: pedersen.verify_opening(commitment, CONTEXT, proof),
        [ONE.commitment, pedersen.prove_opening(ONE, CONTEXT)],
    ),
    "pedersen equality": (
        lambda one, other, proof: pedersen.verify_equal(one, other, CONTEXT, proof),
        [ONE.commitment, SAME.commitment, pedersen.prove_equal(ONE, SAME, CONTEXT)],
    ),
    "range": (
        lambda commitment, proof: verify_range(commitment, 39, 45, CONTEXT, proof),
        [ONE.commitment, prove_range(ONE, 39, 45, CONTEXT)],
    ),
    "dleq": (
        lambda b, c, d, proof: dleq.verify(GENERATOR, b, c, d, CONTEXT, proof),
        [base(SECRET), PAIRS, IMAGES, dleq.prove(SECRET, GENERATOR, base(SECRET), PAIRS, IMAGES, CONTEXT)],
    ),
    "voprf": _oprf(Mode.VOPRF),
    "poprf": _oprf(Mode.POPRF),
    "committed sample count": (
        lambda message: samples.verify(TRAINING, TRAINING.cohort[0], message),
        [COMMITTED],
    ),
    "prio3 count": _prio3(Prio3Count(), 1),
    "prio3 histogram": _prio3(Prio3Histogram(length=5, chunk_length=2), 3),
    "prio3 vector": _prio3(Prio3SumVecWithMultiproof(length=4, max_measurement=7, chunk_length=3), [1, 2, 3, 4]),
    "report": (
        lambda *parts: Report.read(TRAINING.cohort[0], 4, {**dict(zip(MATERIAL, parts, strict=True)), **SHARES}),
        [bytes(size) for size in MATERIAL.values()],
    ),
    "begin": _twoserver(Begin, leader_key=bytes(32), manifest=b"{}"),
    "begun": _twoserver(Begun, helper_key=bytes(32), keyid=bytes(32), signature=bytes(64), verify_key=b"x"),
    "agree": _twoserver(Agree, root=bytes(32), members=b"x"),
    "accepted": _twoserver(Accepted, share_digest=bytes(32), keyid=bytes(32), signature=bytes(64)),
    "accepted set": _twoserver(
        SetEvidence, root=bytes(32), share_digest=bytes(32), keyid=bytes(32), signature=bytes(64), members=b"x"
    ),
}  # fmt: skip
FREE = {"begin": {1}, "begun": {3}, "agree": {1}, "accepted set": {4}}
"""Parts that may have any length here: what reads them further checks it."""


def resized(value: Any, extra: bytes, cut: int) -> Iterator[Any]:
    """The same with a wrong length: bytes, points and scalars by their encodings, lists by elements and inside."""
    if isinstance(value, bytes):
        yield from {value[: max(0, len(value) - cut)], value + extra, b"", value + value, extra + value} - {value}
    elif isinstance(value, (Point, Scalar)):
        yield from (replace(value, encoded=data) for data in resized(value.encoded, extra, cut))
    elif isinstance(value, list):
        filler = value[:1] or [bytes(32)]
        yield value + filler
        if value:
            yield value[:-1]
        for place, one in enumerate(value):
            yield from ([*value[:place], wrong, *value[place + 1 :]] for wrong in resized(one, extra, cut))


@pytest.mark.parametrize("name", CASES)
def test_a_right_one_is_accepted(name: str) -> None:
    check, parts = CASES[name]
    check(*parts)


@pytest.mark.parametrize("name", CASES)
@given(extra=st.binary(min_size=1, max_size=40), cut=st.integers(1, 70))
@settings(max_examples=examples(5), deadline=None)
def test_every_part_of_a_wrong_length_is_refused(name: str, extra: bytes, cut: int) -> None:
    check, parts = CASES[name]
    for place, part in enumerate(parts):
        if place in FREE.get(name, ()):
            continue
        for wrong in resized(part, extra, cut):
            with pytest.raises((Refusal, merkle.MerkleProofInvalid)):
                check(*parts[:place], wrong, *parts[place + 1 :])


@pytest.mark.parametrize(
    ("index", "size"), [(-1, 7), (7, 7), (0, 0), (0, -1), (5, 4), (0, 2**63), (2**63, 2**64), (2**80, 2**81)]
)
def test_places_outside_a_tree_are_refused(index: int, size: int) -> None:
    with pytest.raises(merkle.MerkleProofInvalid):
        merkle.verify_inclusion(LEAVES[0], index, size, [], LEAVES[0])
    with pytest.raises(merkle.MerkleProofInvalid):
        merkle.verify_consistency(index + 1, size, LEAVES[0], LEAVES[0], [])


def test_nothing_proves_nothing() -> None:
    """The instance that an attack found."""
    with pytest.raises(merkle.MerkleProofInvalid):
        merkle.verify_inclusion(b"", 0, 1, [], b"")
    with pytest.raises(merkle.MerkleProofInvalid):
        merkle.verify_consistency(1, 1, b"", b"", [])
