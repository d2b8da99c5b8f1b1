"""A vector of reals to integers by randomised rounding, block by block: in numpy, or compiled where a vector is long.

Both ways give the same integers, bit for bit: the tests hold one against the other.
"""

import importlib.util
import math
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

ModVector = npt.NDArray[np.unsignedinteger]
Floats = npt.NDArray[np.float32]

BLOCK: Final = 8_192  # coordinates: the working arrays stay in a core's cache, and BLAS starts no threads below 10,000
COMPILED_FROM: Final = 65_536
"""Coordinates from which compiled code saves more than loading it costs; shorter vectors spare a process 65 MB."""


class Uniforms:
    """A stream of uniform 32-bit words: AES-256-CTR under the caller's key, one counter space per draw."""

    def __init__(self, key: bytes, draw: int) -> None:
        counter = draw.to_bytes(8, "big") + bytes(8)
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()
        self._words = np.empty(BLOCK, "<u4")
        self._octets = self._words.view(np.uint8).data
        self._zeros = memoryview(bytes(BLOCK * 4))

    def next(self, count: int) -> npt.NDArray[np.uint32]:
        """Return the next words, which the next call overwrites: uint32[count], count at most `BLOCK`."""
        self._cipher.update_into(self._zeros[: count * 4], self._octets[: count * 4])
        return self._words[:count]


def measure(vector: Floats) -> tuple[float, float]:
    """Return the L2 norm and the greatest size of a coordinate of a float32[d].

    The norm of a vector with NaN or infinities is not finite; a finite float32 squared never overflows a float64.
    """
    if not vector.size:
        return 0.0, 0.0
    square, wide = 0.0, np.empty(BLOCK, np.float64)
    for start in range(0, vector.size, BLOCK):
        block = vector[start : start + BLOCK]
        part = wide[: block.size]
        part[:] = block
        square += float(part @ part)
    return math.sqrt(square), max(float(vector.max()), -float(vector.min()))


def round_into(
    ring: ModVector, vector: Floats, factor: float, weight: int, clamp: int | None, uniforms: Uniforms
) -> float:
    """Write weight * round(vector * factor) to the ring, and return the integers' squared norm before the weight."""
    compiled = vector.size >= COMPILED_FROM and kernels_installed()
    round_block = _compiled_block if compiled else _Plain()
    square, limit = 0.0, math.inf if clamp is None else clamp * 2.0**32
    for start in range(0, vector.size, BLOCK):
        block = vector[start : start + BLOCK]
        words = uniforms.next(block.size)
        square += round_block(ring[start : start + block.size], block, factor * 2.0**32, weight, limit, words)
    return square


@cache
def kernels_installed() -> bool:
    """Return whether compiled code can be had."""
    return importlib.util.find_spec("numba") is not None


class _Plain:
    """Rounds blocks with numpy."""

    def __init__(self) -> None:
        self._wide, self._fixed = np.empty(BLOCK, np.float64), np.empty(BLOCK, np.int64)

    def __call__(
        self,
        ring: ModVector,
        block: Floats,
        factor: float,
        weight: int,
        limit: float,
        words: npt.NDArray[np.uint32],
    ) -> float:
        """Round one block, whose fixed-point numbers have 32 fractional bits."""
        real, whole = self._wide[: block.size], self._fixed[: block.size]
        real[:] = block
        real *= factor
        if math.isfinite(limit):
            np.clip(real, -limit, limit, out=real)
        np.copyto(whole, real, casting="unsafe")
        whole += words
        whole >>= 32
        real[:] = whole
        square = float(real @ real)
        whole *= weight
        np.copyto(ring, whole, casting="unsafe")
        return square


def _compiled_block(
    ring: ModVector, block: Floats, factor: float, weight: int, limit: float, words: npt.NDArray[np.uint32]
) -> float:
    from undersong.shared.secagg.rounding_kernel import round_block

    return float(round_block(ring, np.ascontiguousarray(block), factor, weight, limit, words))
