"""Extendable-output functions: bytes, seeds and field elements out of a seed, a domain tag and a binder.

Source: XofTurboShake128 from draft-irtf-cfrg-vdaf-18 to -20, section "XOFs"; XofHmacSha256Aes128 from libprio-rs and
draft-chen-cfrg-vdaf-pine-01. `XofTurboShake128Draft11` is the former as it was in VDAF draft 11 (shorter seeds and
lengths), which the Field64 and Field128 vectors of PINE-01 use.
"""

from abc import ABC, abstractmethod
from typing import Final

import numpy as np
import numpy.typing as npt
from Cryptodome.Hash import TurboSHAKE128
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from undersong.shared.vdaf.field import Field, Octets, Vector

_BLOCK: Final = 1 << 18
_ZEROS: Final = memoryview(bytes(_BLOCK))


class Xof(ABC):
    """A stream of bytes that looks random without the seed."""

    SEED_SIZE: int = 32

    @abstractmethod
    def __init__(self, seed: bytes, dst: bytes, *binder: Octets) -> None:
        """Return a stream for `seed`, the domain separation tag `dst` and the binder (given in parts)."""

    @abstractmethod
    def next(self, length: int) -> bytes:
        """Return the next `length` bytes."""

    def fill(self, length: int) -> npt.NDArray[np.uint8]:
        """Return the next `length` bytes as a fresh array."""
        return np.frombuffer(bytearray(self.next(length)), np.uint8)

    @classmethod
    def derive_seed(cls, seed: bytes, dst: bytes, *binder: Octets) -> bytes:
        """Return a new seed."""
        return cls(seed, dst, *binder).next(cls.SEED_SIZE)

    def next_vec(self, field: Field, length: int) -> Vector:
        """Return the next `length` field elements, by rejection."""
        vector = field.sieve(self.fill(length * field.size).data)
        while (missing := length - vector.shape[0]) > 0:
            vector = np.concatenate([vector, field.sieve(self.fill(missing * field.size).data)])
        return vector

    @classmethod
    def expand_into_vec(cls, field: Field, seed: bytes, dst: bytes, binder: bytes, length: int) -> Vector:
        """`length` field elements out of a seed."""
        return cls(seed, dst, binder).next_vec(field, length)

    @classmethod
    def _check_seed(cls, seed: bytes) -> None:
        if len(seed) != cls.SEED_SIZE:
            raise ValueError(f"a seed of {cls.__name__} has {cls.SEED_SIZE} bytes")


class XofHmacSha256Aes128(Xof):
    """AES-128-CTR under a key and counter block that HMAC-SHA256 makes of seed, tag and binder."""

    def __init__(self, seed: bytes, dst: bytes, *binder: Octets) -> None:
        self._check_seed(seed)
        if len(dst) > 255:
            raise ValueError("a domain separation tag has at most 255 bytes: give a digest as context")
        mac = HMAC(seed, SHA256())
        mac.update(len(dst).to_bytes(1, "little"))
        mac.update(dst)
        for part in binder:
            mac.update(part)
        digest = mac.finalize()
        self._stream = Cipher(algorithms.AES128(digest[:16]), modes.CTR(digest[16:])).encryptor()

    def next(self, length: int) -> bytes:
        return self._stream.update(bytes(length))

    def fill(self, length: int) -> npt.NDArray[np.uint8]:
        octets = np.empty(length, np.uint8)
        view = octets.data
        for start in range(0, length, _BLOCK):
            part = view[start : start + _BLOCK]
            self._stream.update_into(_ZEROS[: len(part)], part)
        return octets


class XofTurboShake128(Xof):
    """TurboSHAKE128 (RFC 9861) with domain byte 1."""

    def __init__(self, seed: bytes, dst: bytes, *binder: Octets) -> None:
        self._sponge = TurboSHAKE128.new(domain=1)
        self._sponge.update(len(dst).to_bytes(2, "little") + dst + len(seed).to_bytes(1, "little") + seed)
        for part in binder:
            self._sponge.update(part)

    def next(self, length: int) -> bytes:
        return self._sponge.read(length)


class XofTurboShake128Draft11(XofTurboShake128):
    """The same function as of VDAF draft 11: 16-byte seeds, one length byte for the tag, none for the seed."""

    SEED_SIZE = 16

    def __init__(self, seed: bytes, dst: bytes, *binder: Octets) -> None:
        self._check_seed(seed)
        self._sponge = TurboSHAKE128.new(domain=1)
        self._sponge.update(len(dst).to_bytes(1, "little") + dst + seed)
        for part in binder:
            self._sponge.update(part)
