"""A random rotation that all parties know: signs and Hadamard matrices, so that no coordinate stands out.

Source: Suresh, Yu, Kumar, McMahan, Distributed Mean Estimation with Limited Communication (ICML 2017), section 3.
Departs: they pad a vector to a power of two. Here the first m coordinates are rotated and then the last m, with m the
largest power of two within the length, each by signs of its own: both steps are orthogonal, so the norm stays, and not
a coordinate more is sent. After them each coordinate is sub-Gaussian with a variance of at most norm**2 / m.
Shapes: float32[n], changed in place. Only additions, subtractions and changes of sign until the last factor, in one
order, so that a vector comes out with the same bits on every machine.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.shared.secagg.rounding import BLOCK, Uniforms

Floats = npt.NDArray[np.float32]

_BITS: Final = 32 * BLOCK  # signs that one block of words has
_IN_CACHE: Final = 2**14
_TOO_FAR: Final = 2.0**-10


def rotate(vector: Floats, key: bytes) -> None:
    """Rotate a vector; `key` is 32 bytes that all parties know."""
    for number, part in enumerate(_parts(vector)):
        _flip(part, key, number)
        _hadamard(part)


def rotate_back(vector: Floats, key: bytes) -> None:
    """Undo `rotate`."""
    for number, part in reversed(list(enumerate(_parts(vector)))):
        _hadamard(part)
        _flip(part, key, number)


def reach(length: int) -> float:
    """Return how large a coordinate of a rotated vector of norm 1 gets.

    In one of 1,024 vectors, or fewer, any coordinate is larger: the bound of a sub-Gaussian tail over all coordinates.
    """
    return min(1.0, math.sqrt(2 * math.log(2 * max(1, length) / _TOO_FAR) / _block(length)))


def _block(length: int) -> int:
    """Return the largest power of two within the length."""
    return 1 << (max(1, length).bit_length() - 1)


def _parts(vector: Floats) -> list[Floats]:
    block = _block(vector.size)
    if not vector.size:
        return []
    return [vector] if block == vector.size else [vector[:block], vector[-block:]]


def _flip(part: Floats, key: bytes, number: int) -> None:
    """Change signs: those of coordinates whose bit in the stream of this part is 1, the lowest bit of a byte first."""
    uniforms = Uniforms(key, number)
    for start in range(0, part.size, _BITS):
        block = part[start : start + _BITS]
        words = uniforms.next(-(-block.size // 32))
        bits = np.unpackbits(words.view(np.uint8), count=block.size, bitorder="little")
        np.negative(block, out=block, where=bits.view(np.bool_))


def _hadamard(part: Floats) -> None:
    """Multiply by the Hadamard matrix of this power of two, divided by the root of it: (-1)**popcount(i & j)."""
    inner = min(part.size, _IN_CACHE)
    rows = 1 << (inner.bit_length() // 2)
    for start in range(0, part.size, inner):
        block = part[start : start + inner].reshape(rows, inner // rows)
        _butterflies(block.reshape(-1), inner // rows)
        turned = np.ascontiguousarray(block.T)
        _butterflies(turned.reshape(-1), rows)
        block[:] = turned.T
    _butterflies(part, inner)
    part *= np.float32(1 / math.sqrt(part.size))


def _butterflies(vector: Floats, distance: int) -> None:
    """Replace pairs at this distance, and at each double of it, by their sum and their difference."""
    spare = np.empty(min(vector.size, _IN_CACHE), np.float32)
    while distance < vector.size:
        step = min(distance, _IN_CACHE)
        pairs = vector.reshape(-1, 2, distance // step, step)
        together = max(1, _IN_CACHE // distance)
        for start in range(0, pairs.shape[0], together):
            for at in range(pairs.shape[2]):
                low, high = pairs[start : start + together, 0, at], pairs[start : start + together, 1, at]
                kept = spare[: low.size].reshape(low.shape)
                np.subtract(low, high, out=kept)
                low += high
                high[:] = kept
        distance *= 2
