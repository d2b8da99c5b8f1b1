"""A partial sum on its way from one worker to another: a binary blob that only they can read, and only for a while.

Where the aggregator sees updates, a sum of few updates tells much about each, so none is stored in the clear. Each is
encrypted with AES-256-GCM under a key of its own, which is used for nothing else and sealed in the part's row: with the
row the blob becomes noise, as bodies do with the round's key.
Form: blocks of 6 MiB of little-endian words, each with its 16-byte tag; the nonce is the block's number (NIST SP
800-38D, 8.2.1), the associated data name the claim. The reader knows the length.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from undersong.shared.errors import Refusal
from undersong.shared.secagg.fold import BLOCK
from undersong.shared.secagg.quantise import DTYPES, ModVector

_TAG: Final = 16
_NONCE: Final = 12
_KEY_BITS: Final = 256


class PartialSumBroken(Refusal):
    """The blob is not the partial sum that the part's row tells of."""


def new_key() -> bytes:
    """Return a key for one partial sum."""
    return AESGCM.generate_key(_KEY_BITS)


def sealed_size(total: ModVector) -> int:
    """Bytes of the blob."""
    return total.nbytes + -(-total.nbytes // BLOCK) * _TAG


async def seal(total: ModVector, key: bytes, claim: str) -> AsyncIterator[bytes]:
    """Yield the blob, block by block; `key` was never used before."""
    words = np.ascontiguousarray(total, total.dtype.newbyteorder("<"))
    plain, cipher = words.view(np.uint8).data, AESGCM(key)
    for number, start in enumerate(range(0, len(plain), BLOCK)):
        block = plain[start : start + BLOCK]
        yield await asyncio.to_thread(cipher.encrypt, _nonce(number), block, claim.encode())


def unseal(path: Path, key: bytes, claim: str, modulus_bits: int, length: int) -> ModVector:
    """Return the sum, uint[length]; raises PartialSumBroken. Blocking."""
    words = np.empty(length, np.dtype(DTYPES[modulus_bits]).newbyteorder("<"))
    plain, cipher = words.view(np.uint8).data, AESGCM(key)
    try:
        with path.open("rb") as file:
            for number, start in enumerate(range(0, len(plain), BLOCK)):
                block = plain[start : start + BLOCK]
                sealed = file.read(len(block) + _TAG)
                if len(sealed) != len(block) + _TAG:
                    raise PartialSumBroken("the blob ends too early")
                cipher.decrypt_into(_nonce(number), sealed, claim.encode(), block)
            if file.read(1):
                raise PartialSumBroken("the blob goes on after its last block")
    except FileNotFoundError:
        raise PartialSumBroken("the blob is no longer there") from None
    except InvalidTag:
        raise PartialSumBroken("the blob was changed") from None
    return words.astype(DTYPES[modulus_bits], copy=False)


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE, "big")
