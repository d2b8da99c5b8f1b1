"""Oblivious pseudorandom functions over ristretto255: OPRF, VOPRF and POPRF.

Source: RFC 9497, suite ristretto255-SHA512; the names are the RFC's. The verifiable modes carry a DLEQ proof (`dleq`)
that the server used the key that it published.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from undersong.shared.errors import Invalid
from undersong.shared.zk import dleq
from undersong.shared.zk.group import GENERATOR, NotInvertible, Point, Scalar, base, hash_to_group, hash_to_scalar

IDENTIFIER: Final = b"ristretto255-SHA512"
_MAX_FRAMED: Final = (1 << 16) - 1


class InvalidInput(Invalid):
    """The input is too long, or maps to the identity."""


class DeriveKeyPairFailed(Invalid):
    """No counter gave a key: the seed is unusable."""


class Mode(IntEnum):
    """The RFC's three protocols."""

    OPRF = 0
    VOPRF = 1
    POPRF = 2


@dataclass(frozen=True, slots=True)
class BlindEvaluation:
    """The server's answer to a batch, and in the verifiable modes its proof."""

    elements: tuple[Point, ...]
    proof: bytes | None


@dataclass(frozen=True, slots=True)
class Oprf:
    """One mode of the suite. `info` is the public input of POPRF and stays empty in the other modes."""

    mode: Mode

    @property
    def context(self) -> bytes:
        """The RFC's contextString."""
        return b"OPRFV1-" + bytes([self.mode]) + b"-" + IDENTIFIER

    def derive_key_pair(self, seed: bytes, key_info: bytes) -> tuple[Scalar, Point]:
        """Return the key (skS, pkS) that follows from 32 secret bytes; raises `DeriveKeyPairFailed`."""
        derived = seed + dleq.framed(key_info)
        for counter in range(256):
            secret = hash_to_scalar(derived + bytes([counter]), b"DeriveKeyPair" + self.context)
            if not secret.is_zero:
                return secret, base(secret)
        raise DeriveKeyPairFailed("no counter below 256 gives a key")  # pragma: no cover  (probability 2**-64512)

    def blind(self, value: bytes, blind: Scalar) -> Point:
        """Return what a client sends; `blind` is a secret random scalar. Raises `InvalidInput`, `NotInvertible`."""
        if blind.is_zero:
            raise NotInvertible("a blind of zero cannot be taken off again")
        return blind * self._input_element(value)

    def blind_evaluate(
        self, secret: Scalar, blinded: Sequence[Point], info: bytes = b"", *, nonce: Scalar | None = None
    ) -> BlindEvaluation:
        """Return the server's part for a batch; `nonce` is the proof's r, fresh unless a vector gives it."""
        points = [Point.element(each.encoded) for each in blinded]
        if self.mode is Mode.POPRF:
            key = self._tweaked(secret, info)
            inverse = key.inverse()
            evaluated = [inverse * point for point in points]
            proof = dleq.prove(key, GENERATOR, base(key), evaluated, points, self.context, nonce=nonce)
            return BlindEvaluation(tuple(evaluated), proof)
        evaluated = [secret * point for point in points]
        if self.mode is Mode.OPRF:
            return BlindEvaluation(tuple(evaluated), None)
        proof = dleq.prove(secret, GENERATOR, base(secret), points, evaluated, self.context, nonce=nonce)
        return BlindEvaluation(tuple(evaluated), proof)

    def verify(self, public: Point, blinded: Sequence[Point], evaluation: BlindEvaluation, info: bytes = b"") -> None:
        """Check that the server used the key behind `public`; raises `ProofInvalid`, `IdentityRefused`."""
        if self.mode is Mode.OPRF:
            return
        if self.mode is Mode.POPRF:
            tweaked = base(self._info_scalar(info)) + Point.element(public.encoded)
            dleq.verify(GENERATOR, tweaked, evaluation.elements, blinded, self.context, evaluation.proof or b"")
        else:
            dleq.verify(GENERATOR, public, blinded, evaluation.elements, self.context, evaluation.proof or b"")

    def finalize(
        self,
        values: Sequence[bytes],
        blinds: Sequence[Scalar],
        blinded: Sequence[Point],
        evaluation: BlindEvaluation,
        public: Point | None = None,
        info: bytes = b"",
    ) -> list[bytes]:
        """Return the client's outputs, 64 bytes each, once the proof holds; `public` is needed in the verifiable modes.

        Raises `ProofInvalid`, `PointInvalid`, `IdentityRefused`, and `InvalidInput` where the batch has other lengths.
        """
        if not len(values) == len(blinds) == len(blinded) == len(evaluation.elements):
            raise InvalidInput("the server's answer is not one element for each input")
        if self.mode is not Mode.OPRF:
            if public is None:
                raise InvalidInput("a verifiable mode needs the server's public key")
            self.verify(public, blinded, evaluation, info)
        opened = [
            blind.inverse() * Point.element(point.encoded)
            for blind, point in zip(blinds, evaluation.elements, strict=True)
        ]
        return [self._output(value, point, info) for value, point in zip(values, opened, strict=True)]

    def evaluate(self, secret: Scalar, value: bytes, info: bytes = b"") -> bytes:
        """Return the function itself, for who holds the key."""
        key = self._tweaked(secret, info).inverse() if self.mode is Mode.POPRF else secret
        return self._output(value, key * self._input_element(value), info)

    def _input_element(self, value: bytes) -> Point:
        if len(value) > _MAX_FRAMED:
            raise InvalidInput(f"an input has at most {_MAX_FRAMED} bytes")
        point = hash_to_group(value, b"HashToGroup-" + self.context)
        if point.is_identity:
            raise InvalidInput("the input maps to the identity")  # pragma: no cover  (none can be found)
        return point

    def _output(self, value: bytes, point: Point, info: bytes) -> bytes:
        public = dleq.framed(info) if self.mode is Mode.POPRF else b""
        return hashlib.sha512(dleq.framed(value) + public + dleq.framed(point.encoded) + b"Finalize").digest()

    def _info_scalar(self, info: bytes) -> Scalar:
        if len(info) > _MAX_FRAMED:
            raise InvalidInput(f"the public input has at most {_MAX_FRAMED} bytes")
        return hash_to_scalar(b"Info" + dleq.framed(info), b"HashToScalar-" + self.context)

    def _tweaked(self, secret: Scalar, info: bytes) -> Scalar:
        return secret + self._info_scalar(info)
