"""ristretto255: a group of prime order without cofactor, its scalars, and hashing into both.

Source: RFC 9496 (encoding, decoding, one-way map), RFC 9380 section 5.3.1 and appendix B (expand_message_xmd with
SHA-512, hash_to_ristretto255). The arithmetic is libsodium's, in constant time; what is here checks what goes in.
Shapes: a point is 32 bytes, a scalar 32 bytes, little-endian, below `ORDER`.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self, overload

from undersong.shared.errors import Invalid
from undersong.shared.zk.sodium import rbcl

SIZE: Final = 32
UNIFORM_SIZE: Final = 64
ORDER: Final = 2**252 + 27742317777372353535851937790883648493
_HASH_SIZE: Final = 64
_HASH_BLOCK: Final = 128


class PointInvalid(Invalid):
    """These bytes are not the encoding of a point."""


class IdentityRefused(Invalid):
    """The identity was given where a point with a secret behind it is needed."""


class ScalarInvalid(Invalid):
    """These bytes are not the encoding of a scalar below the group's order."""


class NotInvertible(Invalid):
    """Zero has no inverse."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """An integer modulo the group's order."""

    encoded: bytes

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return a canonical scalar; raises `ScalarInvalid`."""
        if len(data) != SIZE or int.from_bytes(data, "little") >= ORDER:
            raise ScalarInvalid("a scalar is 32 bytes, little-endian, below the group's order")
        return cls(bytes(data))

    @classmethod
    def of(cls, value: int) -> Self:
        """Return an integer, reduced."""
        return cls((value % ORDER).to_bytes(SIZE, "little"))

    @classmethod
    def reduce(cls, uniform: bytes) -> Self:
        """64 uniform bytes, as a little-endian number, modulo the order."""
        if len(uniform) != UNIFORM_SIZE:
            raise ScalarInvalid(f"a scalar is reduced from {UNIFORM_SIZE} bytes")
        return cls(rbcl.crypto_core_ristretto255_scalar_reduce(uniform))

    @property
    def is_zero(self) -> bool:
        """Whether this is zero."""
        return self.encoded == bytes(SIZE)

    def inverse(self) -> "Scalar":
        """1 / self; raises `NotInvertible`."""
        if self.is_zero:
            raise NotInvertible("zero has no inverse")
        return Scalar(rbcl.crypto_core_ristretto255_scalar_invert(self.encoded))

    def __add__(self, other: "Scalar") -> "Scalar":
        return Scalar(rbcl.crypto_core_ristretto255_scalar_add(self.encoded, other.encoded))

    def __sub__(self, other: "Scalar") -> "Scalar":
        return Scalar(rbcl.crypto_core_ristretto255_scalar_sub(self.encoded, other.encoded))

    @overload
    def __mul__(self, other: "Scalar") -> "Scalar": ...

    @overload
    def __mul__(self, other: "Point") -> "Point": ...

    def __mul__(self, other: "Scalar | Point") -> "Scalar | Point":
        if isinstance(other, Point):
            return Point(rbcl.crypto_scalarmult_ristretto255_allow_scalar_zero(self.encoded, other.encoded))
        return Scalar(rbcl.crypto_core_ristretto255_scalar_mul(self.encoded, other.encoded))

    def __repr__(self) -> str:
        return "Scalar(…)"  # it may be a secret


@dataclass(frozen=True, slots=True)
class Point:
    """An element of the group. Equal points have equal encodings."""

    encoded: bytes

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """RFC 9496 decoding: canonical encodings only, the identity's among them; raises `PointInvalid`."""
        if len(data) != SIZE or not rbcl.crypto_core_ristretto255_is_valid_point(bytes(data)):
            raise PointInvalid("these 32 bytes are not the canonical encoding of a ristretto255 point")
        return cls(bytes(data))

    @classmethod
    def element(cls, data: bytes) -> Self:
        """Return a point that is not the identity (RFC 9497 DeserializeElement); raises `PointInvalid`,
        `IdentityRefused`.
        """
        found = cls.decode(data)
        if found.is_identity:
            raise IdentityRefused("the identity is no key and hides nothing")
        return found

    @classmethod
    def one_way_map(cls, uniform: bytes) -> Self:
        """RFC 9496 element derivation from 64 uniform bytes."""
        if len(uniform) != UNIFORM_SIZE:
            raise PointInvalid(f"a point is derived from {UNIFORM_SIZE} bytes")
        return cls(rbcl.crypto_core_ristretto255_from_hash(uniform))

    @property
    def is_identity(self) -> bool:
        """Whether this is the neutral element."""
        return self.encoded == bytes(SIZE)

    def __add__(self, other: "Point") -> "Point":
        return Point(rbcl.crypto_core_ristretto255_add(self.encoded, other.encoded))

    def __sub__(self, other: "Point") -> "Point":
        return Point(rbcl.crypto_core_ristretto255_sub(self.encoded, other.encoded))


IDENTITY: Final = Point(bytes(SIZE))


def base(scalar: Scalar) -> Point:
    """Return the scalar times the generator."""
    return Point(rbcl.crypto_scalarmult_ristretto255_base_allow_scalar_zero(scalar.encoded))


GENERATOR: Final = base(Scalar.of(1))


def expand_message(message: bytes, tag: bytes, size: int) -> bytes:
    """RFC 9380 expand_message_xmd with SHA-512; `tag` is the domain separation tag."""
    if len(tag) > 255:
        tag = hashlib.sha512(b"H2C-OVERSIZE-DST-" + tag).digest()
    blocks = -(-size // _HASH_SIZE)
    if not 0 < size <= 65535 or blocks > 255:
        raise ValueError("expand_message_xmd gives 1 to 16320 bytes")
    suffix = tag + bytes([len(tag)])
    first = hashlib.sha512(bytes(_HASH_BLOCK) + message + size.to_bytes(2, "big") + b"\0" + suffix).digest()
    block = hashlib.sha512(first + b"\1" + suffix).digest()
    made = [block]
    for index in range(2, blocks + 1):
        mixed = bytes(a ^ b for a, b in zip(first, block, strict=True))
        block = hashlib.sha512(mixed + bytes([index]) + suffix).digest()
        made.append(block)
    return b"".join(made)[:size]


def hash_to_group(message: bytes, tag: bytes) -> Point:
    """Hash to the group by RFC 9380 hash_to_ristretto255; the result's logarithm is unknown."""
    return Point.one_way_map(expand_message(message, tag, UNIFORM_SIZE))


def hash_to_scalar(message: bytes, tag: bytes) -> Scalar:
    """RFC 9497 HashToScalar: 64 bytes of expand_message_xmd, modulo the order."""
    return Scalar.reduce(expand_message(message, tag, UNIFORM_SIZE))


@lru_cache(maxsize=1)
def second_generator() -> Point:
    """Return H of Pedersen commitments: hashed to the group, so its logarithm to the base G is unknown."""
    return hash_to_group(b"undersong/pedersen/1", b"undersong/second-generator/1 ristretto255_XMD:SHA-512_R255MAP_RO_")
