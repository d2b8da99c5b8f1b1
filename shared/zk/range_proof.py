"""A committed value lies in a range, proved bit by bit.

Source: each bit's commitment holds 0 or 1 by the OR-proof of Cramer, Damgård and Schoenmakers (CRYPTO 1994), all bits
under one challenge; the bits' commitments add up to the value's. A range whose size is no power of two takes two such
proofs, of v - low and of high - v (Boudot 2000, section 1.2.1). Bulletproofs would be shorter and slower to make here.
Shapes: n bits take 128 n bytes: n - 1 commitments (the lowest follows from the sum), c, and (c0, s0, s1) for each bit.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from undersong.shared.zk.group import GENERATOR, Point, Scalar, base, second_generator
from undersong.shared.zk.pedersen import Opening
from undersong.shared.zk.transcript import ProofInvalid, Statement, scalars

MAX_BITS: Final = 64
_LABEL: Final = b"undersong/range/1"


class OutsideRange(ProofInvalid):
    """The value is not in the range: there is nothing to prove."""


def proof_size(low: int, high: int) -> int:
    """Bytes of a proof for low … high."""
    bits, sides = _bits(low, high)
    return 128 * bits * sides


def prove_range(opening: Opening, low: int, high: int, context: bytes, *, entropy: bytes | None = None) -> bytes:
    """low <= v <= high; raises `OutsideRange`. At most 64 bits of difference."""
    bits, sides = _bits(low, high)
    value = int.from_bytes(opening.value.encoded, "little")
    if not low <= value <= high:
        raise OutsideRange(f"the committed value is outside {low}..{high}")
    places = ((value - low, opening.blinding), (high - value, Scalar.of(0) - opening.blinding))
    parts = []
    for side, (rest, blinding) in enumerate(places[:sides]):
        statement = _statement(opening.commitment, low, high, side, context)
        parts.append(_prove_bits(rest, blinding, bits, statement, entropy))
    return b"".join(parts)


def verify_range(commitment: Point, low: int, high: int, context: bytes, proof: bytes) -> None:
    """Check it; raises `ProofInvalid`, `PointInvalid` or `ScalarInvalid`."""
    bits, sides = _bits(low, high)
    Point.decode(commitment.encoded)
    if len(proof) != 128 * bits * sides:
        raise ProofInvalid(f"the proof has {len(proof)} bytes, {low}..{high} takes {128 * bits * sides}")
    places = (commitment - base(Scalar.of(low)), base(Scalar.of(high)) - commitment)
    for side, rest in enumerate(places[:sides]):
        part = proof[side * 128 * bits : (side + 1) * 128 * bits]
        _verify_bits(rest, bits, _statement(commitment, low, high, side, context), part)


def _prove_bits(value: int, blinding: Scalar, bits: int, statement: Statement, entropy: bytes | None) -> bytes:
    """Return the commitment to `value` under `blinding` holds a number of so many bits."""
    secret = statement.nonces(Scalar.of(value), blinding, entropy=entropy)
    digits = [value >> place & 1 for place in range(bits)]
    blindings = _summing_to(blinding, bits, secret)
    h = second_generator()
    commitments = [base(Scalar.of(digit)) + each * h for digit, each in zip(digits, blindings, strict=True)]
    nonces, simulated = [], []
    firsts: list[Point] = []
    for digit, point in zip(digits, commitments, strict=True):
        nonce, false_challenge, false_response = next(secret), next(secret), next(secret)
        true_first = nonce * h
        false_first = false_response * h - false_challenge * _holding(point, 1 - digit)
        firsts += (true_first, false_first) if digit == 0 else (false_first, true_first)
        nonces.append(nonce)
        simulated.append((false_challenge, false_response))
    challenge = statement.challenge(*commitments, *firsts)
    answers: list[Scalar] = []
    for digit, each, nonce, (false_challenge, false_response) in zip(digits, blindings, nonces, simulated, strict=True):
        true_challenge = challenge - false_challenge
        response = nonce + true_challenge * each
        answers += (
            (true_challenge, response, false_response) if digit == 0 else (false_challenge, false_response, response)
        )
    points = b"".join(point.encoded for point in commitments[1:])
    return points + challenge.encoded + b"".join(answer.encoded for answer in answers)


def _verify_bits(total: Point, bits: int, statement: Statement, proof: bytes) -> None:
    at = 32 * (bits - 1)
    higher = [Point.decode(proof[start : start + 32]) for start in range(0, at, 32)]
    challenge, *answers = scalars(proof[at:], 1 + 3 * bits)
    h = second_generator()
    commitments = [total - _weighted(higher), *higher]
    firsts: list[Point] = []
    for place, point in enumerate(commitments):
        zero, response_zero, response_one = answers[3 * place : 3 * place + 3]
        firsts.append(response_zero * h - zero * point)
        firsts.append(response_one * h - (challenge - zero) * _holding(point, 1))
    if statement.challenge(*commitments, *firsts) != challenge:
        raise ProofInvalid("the committed value is not proved to lie in the range")


def _summing_to(blinding: Scalar, bits: int, secret: Iterator[Scalar]) -> list[Scalar]:
    """Blindings r_j of the bits with sum 2**j r_j = r."""
    higher = [next(secret) for _ in range(bits - 1)]
    for place, each in enumerate(higher, start=1):
        blinding -= Scalar.of(1 << place) * each
    return [blinding, *higher]


def _weighted(higher: Sequence[Point]) -> Point:
    """Return the sum of 2**j C_j over j >= 1."""
    total = Point(bytes(32))
    for point in reversed(higher):
        total = total + point
        total = total + total
    return total


def _holding(point: Point, digit: int) -> Point:
    """Return the multiple of H that the bit's commitment is if it holds this digit."""
    return point - GENERATOR if digit else point


def _bits(low: int, high: int) -> tuple[int, int]:
    """(bits of a proof, how many proofs)."""
    if not 0 <= low < high or (high - low).bit_length() > MAX_BITS:
        raise ValueError(f"no range of 1 to {MAX_BITS} bits: {low}..{high}")
    bits = (high - low).bit_length()
    return bits, 1 if high - low + 1 == 1 << bits else 2


def _statement(commitment: Point, low: int, high: int, side: int, context: bytes) -> Statement:
    bounds = b"".join(number.to_bytes(16, "little") for number in (low, high, side))
    return Statement.of(_LABEL, context, second_generator(), commitment, bounds)
