"""Shamir's sharing of 32-byte secrets over the 64-bit prime field.

A secret is five limbs of 56 bits (little-endian, the last one 32 bits); a share is the five values at one
point, uint64 little-endian: 40 bytes. Points are 1, 2, ... k. Source: Shamir 1979; layout is this suite's.
"""

import struct
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from undersong.shared.fields.plain64 import P, evaluate

SECRET_BYTES = 32
SHARE_BYTES = 40
_LIMBS = 5
_VALUES = struct.Struct("<5Q")
_LIMB_BYTES = 7

Random = Callable[[int], bytes]


class BadShares(ValueError):
    """Shares that do not open to a 32-byte secret."""


def _limbs(secret: bytes) -> list[int]:
    padded = secret.ljust(_LIMBS * _LIMB_BYTES, b"\0")
    return [int.from_bytes(padded[i : i + _LIMB_BYTES], "little") for i in range(0, len(padded), _LIMB_BYTES)]


def _field_elements(count: int, random: Random) -> list[int]:
    """Uniform elements of the field, by rejection (one draw in 2**32 is rejected)."""
    elements: list[int] = []
    while len(elements) < count:
        drawn = np.frombuffer(random(8 * (count - len(elements))), "<u8")
        elements.extend(int(value) for value in drawn if value < P)
    return elements


def split(secrets: Sequence[bytes], shares: int, threshold: int, random: Random) -> list[list[bytes]]:
    """Share each 32-byte secret among `shares` points, any `threshold` of which open it.

    Returns for each point the list of shares, in the order of `secrets`.
    """
    if not 1 <= threshold <= shares:
        raise ValueError("the threshold must lie between one and the number of shares")
    if any(len(secret) != SECRET_BYTES for secret in secrets):
        raise ValueError("a secret is 32 bytes")
    rows = [limb for secret in secrets for limb in _limbs(secret)]
    drawn = _field_elements(len(rows) * (threshold - 1), random)
    coefficients = np.empty((len(rows), threshold), np.uint64)
    coefficients[:, 0] = rows
    coefficients[:, 1:] = np.array(drawn, np.uint64).reshape(len(rows), threshold - 1)
    values = evaluate(coefficients, np.arange(1, shares + 1, dtype=np.uint64)).astype("<u8")
    return [[row[i * _LIMBS : (i + 1) * _LIMBS].tobytes() for i in range(len(secrets))] for row in values]


def well_formed(share: bytes) -> bool:
    """Return whether these are five values of the field."""
    return len(share) == SHARE_BYTES and max(_VALUES.unpack(share)) < P


def secret_of(limbs: Iterable[int]) -> bytes:
    """Put a secret together from its limbs; raises BadShares where they are not those of 32 bytes."""
    values = [int(limb) for limb in limbs]
    if any(limb >> 56 for limb in values):
        raise BadShares("the shares do not belong together")
    secret = b"".join(limb.to_bytes(_LIMB_BYTES, "little") for limb in values)
    if any(secret[SECRET_BYTES:]):
        raise BadShares("the shares do not belong together")
    return secret[:SECRET_BYTES]
