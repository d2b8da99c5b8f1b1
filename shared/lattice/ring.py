"""The ring Z_q[X] / (X**4096 + 1), q = 2**64 - 2**32 + 1, and encryption under a key that is added up (RLWE).

A ciphertext of a block of coefficients m is c = a s + delta m + e, with a public, s and e small: sums of ciphertexts
are ciphertexts of sums under the sum of keys, and that sum of keys opens them (Regev, J. ACM 2009; Lyubashevsky,
Peikert and Regev, EUROCRYPT 2010). Ciphertexts and `a` are kept in transformed form: the values at the odd powers of
an 8192nd root of unity, where a product is one multiplication a place.
Shapes: a polynomial is uint64[N] in [0, q), several are uint64[k, N], C-contiguous.
"""

from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from undersong.shared.fields import kernels64
from undersong.shared.fields.field64 import P
from undersong.shared.lattice import kernels
from undersong.shared.lattice.packings import SIGMA, N
from undersong.shared.privacy.noise import add_discrete_gaussian

Q: Final = P
TAIL: Final = 56
"""No coefficient of a key or an error is larger: the sampler's tables end at ceil(12 sigma)."""
KEY_BYTES: Final = 32
_GENERATOR: Final = 7
_CHUNK: Final = 8  # polynomials: 256 KiB stay in a core's cache

Words = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]


class _Tables(NamedTuple):
    """What transforms need: the order of bits, powers of roots, and the factors before and after."""

    order: npt.NDArray[np.int64]
    roots: Words
    inverse_roots: Words
    twist: Words
    untwist: Words


class UniformWords:
    """Independent uniform words below q out of AES-256-CTR under a key that is used for nothing else.

    Words of the stream that are not below q are skipped: never reduced, which would favour small ones.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the key has {len(key)} bytes, not {KEY_BYTES}")
        self._stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def take(self, count: int) -> Words:
        """Return the next `count` words."""
        words: Words = np.empty(count, "<u8")
        self._stream.update_into(bytes(words.nbytes), words.view(np.uint8).data)
        if kernels64.canonical(words):
            return words
        kept: Words = words[words < np.uint64(Q)]
        return np.concatenate([kept, self.take(count - kept.size)])


def gaussian(count: int, key: bytes) -> Integers:
    """Return fresh small integers, int64[count]; `key` is 32 fresh random bytes for this call alone."""
    drawn = np.zeros(count, np.int64)
    add_discrete_gaussian(drawn, SIGMA, key)
    return drawn


def elements(integers: Integers) -> Words:
    """Return signed integers as words."""
    words = np.empty(integers.size, np.uint64)
    kernels64.from_signed(words, np.ascontiguousarray(integers, np.int64))
    return words


def transformed(polynomial: Words) -> Words:
    """Return a polynomial's values: uint64[N]."""
    out, at = np.empty((N, 1), np.uint64), _tables()
    kernels64.twisted(out, polynomial.reshape(N, 1), at.order, at.twist, at.roots)
    return out.reshape(N)


def restored(values: Words) -> Words:
    """Return the polynomial that has these values: the inverse of `transformed`."""
    return _inverse(values.reshape(N, 1)).reshape(N)


def encrypt(blocks: Words, a: UniformWords, key: Words) -> Iterator[Words]:
    """Yield ciphertexts of coefficients with their noise, uint64[k, N], a few at a time, in transformed form.

    `key` is the secret polynomial in transformed form; `a` gives the public ones, in order.
    """
    at = _tables()
    for start in range(0, blocks.shape[0], _CHUNK):
        part = blocks[start : start + _CHUNK]
        columns, out = np.empty((N, part.shape[0]), np.uint64), np.empty(part.shape, np.uint64)
        kernels64.twisted(columns, part.T, at.order, at.twist, at.roots)
        kernels.add_products(out, columns, a.take(part.size).reshape(part.shape), key)
        yield out


def decrypt(ciphertexts: Words, a: UniformWords, key: Words) -> Iterator[Words]:
    """Yield the coefficients in ciphertexts uint64[k, N], with their noise, a few polynomials at a time: uint64[j, N].

    With sums of ciphertexts and of keys these are sums.
    """
    for start in range(0, ciphertexts.shape[0], _CHUNK):
        part = ciphertexts[start : start + _CHUNK]
        columns = np.empty((N, part.shape[0]), np.uint64)
        kernels.subtract_products(columns, part, a.take(part.size).reshape(part.shape), key)
        yield _inverse(columns)


def _inverse(columns: Words) -> Words:
    at = _tables()
    coefficients, out = np.empty(columns.shape, np.uint64), np.empty((columns.shape[1], N), np.uint64)
    kernels64.transform(coefficients, columns, at.order, at.inverse_roots)
    for j in range(out.shape[0]):
        kernels.untwist(out[j], coefficients, j, at.untwist)
    return out


@cache
def _tables() -> _Tables:
    psi = pow(_GENERATOR, (Q - 1) // (2 * N), Q)
    order = np.zeros(1, np.int64)
    while order.size < N:
        order = np.concatenate([2 * order, 2 * order + 1])
    untwist = _powers(pow(psi, -1, Q), N)
    kernels64.scale(untwist.reshape(N, 1), np.uint64(pow(N, -1, Q)))
    root = psi * psi % Q
    return _Tables(order, _powers(root, N // 2), _powers(pow(root, -1, Q), N // 2), _powers(psi, N), untwist)


def _powers(base: int, count: int) -> Words:
    out = np.empty(count, np.uint64)
    kernels64.powers(out, np.uint64(base))
    return out
