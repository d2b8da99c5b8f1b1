"""What every proof must do: hold when it is true, and fall with one bit, another statement, or a value out of range."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from undersong.shared.errors import Refusal
from undersong.shared.zk import dleq, pedersen, range_proof, schnorr
from undersong.shared.zk.group import (
    GENERATOR,
    IDENTITY,
    ORDER,
    IdentityRefused,
    NotInvertible,
    Point,
    PointInvalid,
    Scalar,
    ScalarInvalid,
    base,
    second_generator,
)
from undersong.shared.zk.pedersen import Opening
from undersong.shared.zk.range_proof import OutsideRange, prove_range, verify_range
from undersong.shared.zk.transcript import ProofInvalid, Statement

ROOT = Path(__file__).parents[3]
CONTEXT, CHALLENGE = b"federation, job", b"from keys"
SECRET = Scalar.of(0x1234_5678_9ABC)
KEY = base(SECRET)
ONE, SAME, OTHER = Opening.fresh(41), Opening.fresh(41), Opening.fresh(42)
PAIRS = [Scalar.of(5) * second_generator(), Scalar.of(6) * second_generator()]
IMAGES = [SECRET * point for point in PAIRS]

Check = Callable[[bytes, bytes], None]
CASES: dict[str, tuple[bytes, Check]] = {
    "schnorr": (
        schnorr.prove(SECRET, CONTEXT, CHALLENGE),
        lambda proof, context: schnorr.verify(KEY, context, CHALLENGE, proof),
    ),
    "opening": (
        pedersen.prove_opening(ONE, CONTEXT),
        lambda proof, context: pedersen.verify_opening(ONE.commitment, context, proof),
    ),
    "equality": (
        pedersen.prove_equal(ONE, SAME, CONTEXT),
        lambda proof, context: pedersen.verify_equal(ONE.commitment, SAME.commitment, context, proof),
    ),
    "dleq": (
        dleq.prove(SECRET, GENERATOR, KEY, PAIRS, IMAGES, CONTEXT),
        lambda proof, context: dleq.verify(GENERATOR, KEY, PAIRS, IMAGES, context, proof),
    ),
    "range of two bits": (
        prove_range(ONE, 39, 42, CONTEXT),
        lambda proof, context: verify_range(ONE.commitment, 39, 42, context, proof),
    ),
    "range of no power of two": (
        prove_range(ONE, 40, 42, CONTEXT),
        lambda proof, context: verify_range(ONE.commitment, 40, 42, context, proof),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_proof_holds_for_its_own_statement_alone(name: str) -> None:
    proof, check = CASES[name]
    check(proof, CONTEXT)
    with pytest.raises(ProofInvalid):
        check(proof, CONTEXT + b"?")
    for cut in (proof[:-1], proof + b"\0", b""):
        with pytest.raises(ProofInvalid):
            check(cut, CONTEXT)


@pytest.mark.parametrize("name", CASES)
def test_each_bent_byte_is_refused_by_name(name: str) -> None:
    proof, check = CASES[name]
    for place in range(0, len(proof), 1 if len(proof) <= 256 else 3):
        bent = bytearray(proof)
        bent[place] ^= 1 << place % 8
        with pytest.raises((ProofInvalid, PointInvalid, ScalarInvalid)):
            check(bytes(bent), CONTEXT)


def test_other_keys_commitments_and_challenges_are_refused() -> None:
    proof, _ = CASES["schnorr"]
    for key, challenge in ((KEY + GENERATOR, CHALLENGE), (KEY, CHALLENGE + b"!")):
        with pytest.raises(ProofInvalid):
            schnorr.verify(key, CONTEXT, challenge, proof)
    with pytest.raises(ProofInvalid):
        pedersen.verify_opening(SAME.commitment, CONTEXT, CASES["opening"][0])
    with pytest.raises(ProofInvalid):
        pedersen.verify_equal(SAME.commitment, ONE.commitment, CONTEXT, CASES["equality"][0])
    with pytest.raises(ProofInvalid):
        dleq.verify(GENERATOR, KEY, PAIRS[::-1], IMAGES[::-1], CONTEXT, CASES["dleq"][0])
    with pytest.raises(ProofInvalid):
        verify_range(SAME.commitment, 39, 42, CONTEXT, CASES["range of two bits"][0])
    with pytest.raises(ProofInvalid):
        verify_range(ONE.commitment, 38, 41, CONTEXT, CASES["range of two bits"][0])


def test_what_is_false_has_no_proof() -> None:
    with pytest.raises(ProofInvalid, match="different values"):
        pedersen.prove_equal(ONE, OTHER, CONTEXT)
    forged = pedersen.prove_equal(ONE, SAME, CONTEXT)
    with pytest.raises(ProofInvalid):
        pedersen.verify_equal(ONE.commitment, OTHER.commitment, CONTEXT, forged)
    with pytest.raises(ProofInvalid):
        dleq.verify(
            GENERATOR, KEY, PAIRS, [*IMAGES[:-1], GENERATOR], CONTEXT,
            dleq.prove(SECRET, GENERATOR, KEY, PAIRS, [*IMAGES[:-1], GENERATOR], CONTEXT),
        )  # fmt: skip
    pedersen.check_opening(ONE.commitment, ONE)
    with pytest.raises(ProofInvalid, match="another value"):
        pedersen.check_opening(ONE.commitment, Opening(OTHER.value, ONE.blinding))


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [(1, 1, 2), (2, 1, 2), (1, 1, 100), (100, 1, 100), (63, 1, 100), (0, 0, 2**64 - 1), (2**64 - 1, 0, 2**64 - 1)],
)
def test_the_whole_range_can_be_proved(value: int, low: int, high: int) -> None:
    opening = Opening.fresh(value)
    proof = prove_range(opening, low, high, CONTEXT)
    assert len(proof) == range_proof.proof_size(low, high)
    verify_range(opening.commitment, low, high, CONTEXT, proof)


@pytest.mark.parametrize("value", [0, 101, 128, 2**64, -1, ORDER - 1])
def test_a_prover_that_does_not_check_the_range_is_refused(value: int) -> None:
    """The honest prover refuses, and its steps carried out all the same convince no verifier."""
    opening = Opening.fresh(value)
    with pytest.raises(OutsideRange):
        prove_range(opening, 1, 100, CONTEXT)
    forged = b""
    for side, (rest, blinding) in enumerate(
        [(value - 1, opening.blinding), (100 - value, Scalar.of(0) - opening.blinding)]
    ):
        statement = range_proof._statement(opening.commitment, 1, 100, side, CONTEXT)
        forged += range_proof._prove_bits(rest % ORDER, blinding, 7, statement, None)
    with pytest.raises(ProofInvalid, match="lie in the range"):
        verify_range(opening.commitment, 1, 100, CONTEXT, forged)


@pytest.mark.parametrize(("low", "high"), [(3, 3), (4, 3), (-1, 3), (0, 2**64)])
def test_an_impossible_range_is_a_callers_mistake(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="no range"):
        prove_range(ONE, low, high, CONTEXT)


def test_the_last_encoding_of_a_number_is_refused() -> None:
    """s and s + order are one number; only the first is a proof, or it could be changed without its secret."""
    for proof, check in (CASES["schnorr"], CASES["opening"], CASES["dleq"]):
        raised = int.from_bytes(proof[-32:], "little") + ORDER
        with pytest.raises(ScalarInvalid):
            check(proof[:-32] + raised.to_bytes(32, "little"), CONTEXT)


def test_the_identity_is_no_key() -> None:
    nothing = Scalar.of(0)
    with pytest.raises(IdentityRefused):
        schnorr.verify(IDENTITY, CONTEXT, CHALLENGE, schnorr.prove(nothing, CONTEXT, CHALLENGE))
    with pytest.raises(IdentityRefused):
        dleq.verify(GENERATOR, IDENTITY, PAIRS, [IDENTITY] * 2, CONTEXT, bytes(64))
    with pytest.raises(NotInvertible):
        nothing.inverse()


def test_points_that_are_none_are_refused_everywhere() -> None:
    bad = Point(b"\xff" * 32)
    for check in (
        lambda: schnorr.verify(bad, CONTEXT, CHALLENGE, bytes(64)),
        lambda: pedersen.verify_opening(bad, CONTEXT, bytes(96)),
        lambda: pedersen.verify_equal(bad, ONE.commitment, CONTEXT, bytes(128)),
        lambda: dleq.verify(GENERATOR, bad, PAIRS, IMAGES, CONTEXT, bytes(64)),
        lambda: verify_range(bad, 1, 2, CONTEXT, bytes(128)),
    ):
        with pytest.raises(PointInvalid):
            check()


def test_a_batch_stands_and_falls_together() -> None:
    """Two errors that cancel in a plain sum do not cancel under random weights."""
    secrets = [Scalar.of(7 + i) for i in range(5)]
    good = [
        schnorr.Possession(base(x), CONTEXT, bytes([i]), schnorr.prove(x, CONTEXT, bytes([i])))
        for i, x in enumerate(secrets)
    ]
    schnorr.verify_batch(good)
    schnorr.verify_batch([])

    def shifted(one: schnorr.Possession, by: Scalar) -> schnorr.Possession:
        proof = one.proof[:32] + (Scalar.decode(one.proof[32:]) + by).encoded
        return schnorr.Possession(one.key, one.context, one.challenge, proof)

    delta = Scalar.of(99)
    for bad in (
        [shifted(good[0], delta), *good[1:]],
        [shifted(good[0], delta), shifted(good[1], Scalar.of(0) - delta), *good[2:]],
    ):
        with pytest.raises(ProofInvalid, match="one of these"):
            schnorr.verify_batch(bad)


def test_a_stuck_random_source_repeats_no_nonce() -> None:
    """With the same randomness another challenge has another nonce; the same statement has the same proof."""
    stuck = bytes(32)
    one, again = (schnorr.prove(SECRET, CONTEXT, b"one", entropy=stuck) for _ in range(2))
    other = schnorr.prove(SECRET, CONTEXT, b"other", entropy=stuck)
    assert one == again
    assert one[:32] != other[:32]
    assert schnorr.prove(SECRET, CONTEXT, b"one")[:32] != one[:32]
    with pytest.raises(ValueError, match="entropy"):
        schnorr.prove(SECRET, CONTEXT, b"one", entropy=b"short")


def test_fields_do_not_run_into_each_other() -> None:
    one, other = Statement.of(b"ab", b"c", b"d", b""), Statement.of(b"a", b"bc", b"", b"d")
    assert one.challenge() != other.challenge()
    assert one.challenge(GENERATOR) != one.challenge(GENERATOR, IDENTITY)


def test_the_second_generator_is_the_one_that_was_hashed() -> None:
    """A known answer: another H would make every stored commitment worthless."""
    assert second_generator() not in (IDENTITY, GENERATOR)
    assert second_generator().encoded.hex() == "0864f0cc531879d54b0ca728d0454d01185fa7d34efc5fa300f5b612a985c363"


def test_secrets_are_not_printed() -> None:
    assert SECRET.encoded.hex() not in repr(SECRET) + repr(ONE)
    with pytest.raises(ScalarInvalid) as refused:
        Scalar.decode(ORDER.to_bytes(32, "little"))
    assert isinstance(refused.value, Refusal)
    assert ORDER.to_bytes(32, "little").hex() not in str(refused.value)


@pytest.mark.skipif(sys.platform != "linux", reason="files in memory are Linux's")
def test_loading_libsodium_leaves_no_file(tmp_path: Path) -> None:
    code = "import tempfile as t; n = t.NamedTemporaryFile; from undersong.shared.zk import sodium; "
    code += "assert t.NamedTemporaryFile is n"
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True, timeout=100)
    assert not list(tmp_path.iterdir())
