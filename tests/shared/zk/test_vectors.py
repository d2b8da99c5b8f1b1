"""RFC 9496, RFC 9380 and RFC 9497 as published."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from undersong.shared.zk import dleq
from undersong.shared.zk.group import (
    GENERATOR,
    IDENTITY,
    IdentityRefused,
    Point,
    PointInvalid,
    Scalar,
    base,
    expand_message,
)
from undersong.shared.zk.oprf import BlindEvaluation, Mode, Oprf
from undersong.shared.zk.transcript import ProofInvalid

BESIDE = Path(__file__).parents[3].parent / "shared" / "vectors"
FOLDER = Path(os.environ.get("UNDERSONG_VECTORS", str(BESIDE)))
RISTRETTO = FOLDER / "ristretto255" / "rfc9496_ristretto255.json"
VOPRF = FOLDER / "voprf" / "rfc9497_ristretto255_sha512.json"
published = pytest.mark.skipif(
    not (RISTRETTO.exists() and VOPRF.exists()),
    reason="no vectors here: take them from RFC 9496 appendix A and RFC 9497 appendix A, and set UNDERSONG_VECTORS",
)


def numbers(text: str) -> list[bytes]:
    return [bytes.fromhex(item) for item in text.split(",")]


@published
def test_ristretto255_multiples_and_the_one_way_map() -> None:
    vectors = json.loads(RISTRETTO.read_text())
    total = IDENTITY
    for i, encoding in enumerate(vectors["generator_multiples_0_to_15"]):
        assert Point.decode(bytes.fromhex(encoding)) == total == base(Scalar.of(i)) == Scalar.of(i) * GENERATOR
        assert (total - GENERATOR) + GENERATOR == total
        total = total + GENERATOR
    for case in vectors["from_uniform_bytes_of_sha512"]:
        uniform = hashlib.sha512(case["input_ascii"].encode()).digest()
        assert Point.one_way_map(uniform).encoded.hex() == case["output"]


@published
def test_ristretto255_bad_encodings_are_refused() -> None:
    cases = json.loads(RISTRETTO.read_text())["invalid_encodings"]
    assert sum(map(len, cases.values())) > 20
    for group in cases.values():
        for encoding in group:
            with pytest.raises(PointInvalid):
                Point.decode(bytes.fromhex(encoding))


def test_the_identity_decodes_but_is_no_element() -> None:
    assert Point.decode(bytes(32)) == IDENTITY
    with pytest.raises(IdentityRefused):
        Point.element(bytes(32))
    with pytest.raises(PointInvalid):
        Point.decode(bytes(31))


def test_expand_message_is_that_of_rfc9380_appendix_k3() -> None:
    tag = b"QUUX-V01-CS02-with-expander-SHA512-256"
    assert expand_message(b"", tag, 32).hex() == "6b9a7312411d92f921c6f68ca0b6380730a1a4d982c507211a90964c394179ba"
    assert expand_message(b"abc", tag, 32).hex() == "0da749f12fbe5483eb066a5f595055679b976e93abe9be6f0f6318bce7aca8dc"


def suites() -> list[dict[str, Any]]:
    return json.loads(VOPRF.read_text()) if VOPRF.exists() else []


@published
@pytest.mark.parametrize("suite", suites(), ids=lambda suite: Mode(suite["mode"]).name)
def test_rfc9497(suite: dict[str, Any]) -> None:
    """Keys, blinded and evaluated elements, proofs with the given r, outputs; each bent proof is refused."""
    oprf = Oprf(Mode(suite["mode"]))
    secret, public = oprf.derive_key_pair(bytes.fromhex(suite["seed"]), bytes.fromhex(suite["keyInfo"]))
    assert secret.encoded.hex() == suite["skSm"]
    assert public.encoded.hex() == suite.get("pkSm", public.encoded.hex())
    for vector in suite["vectors"]:
        values = numbers(vector["Input"])
        blinds = [Scalar.decode(each) for each in numbers(vector["Blind"])]
        info = bytes.fromhex(vector.get("Info", ""))
        blinded = [oprf.blind(value, blind) for value, blind in zip(values, blinds, strict=True)]
        assert [each.encoded for each in blinded] == numbers(vector["BlindedElement"])
        given = vector.get("Proof")
        nonce = Scalar.decode(bytes.fromhex(given["r"])) if given else None
        evaluation = oprf.blind_evaluate(secret, blinded, info, nonce=nonce)
        assert [each.encoded for each in evaluation.elements] == numbers(vector["EvaluationElement"])
        assert evaluation.proof == (bytes.fromhex(given["proof"]) if given else None)
        outputs = numbers(vector["Output"])
        assert oprf.finalize(values, blinds, blinded, evaluation, public, info) == outputs
        assert [oprf.evaluate(secret, value, info) for value in values] == outputs
        oprf.verify(public, blinded, oprf.blind_evaluate(secret, blinded, info), info)
        if given:
            refuses_what_is_bent(oprf, public, blinded, evaluation, info)


def refuses_what_is_bent(
    oprf: Oprf, public: Point, blinded: list[Point], evaluation: BlindEvaluation, info: bytes
) -> None:
    proof = evaluation.proof or b""
    bent = bytes([proof[0] ^ 1]) + proof[1:]
    other_elements = (evaluation.elements[0] + GENERATOR, *evaluation.elements[1:])
    for key, answer, public_input in (
        (public, BlindEvaluation(evaluation.elements, bent), info),
        (public, BlindEvaluation(other_elements, proof), info),
        (public + GENERATOR, evaluation, info),
        (public, BlindEvaluation(evaluation.elements, proof[:-1]), info),
        (public, BlindEvaluation(evaluation.elements[:-1], proof), info),
        *([(public, evaluation, info + b"?")] if oprf.mode is Mode.POPRF else []),
    ):
        with pytest.raises(ProofInvalid):
            oprf.verify(key, blinded, answer, public_input)
    with pytest.raises(IdentityRefused):
        oprf.verify(public, blinded, BlindEvaluation((IDENTITY, *evaluation.elements[1:]), proof), info)
    with pytest.raises(dleq.NothingToProve):
        oprf.blind_evaluate(Scalar.of(2), [], info)
