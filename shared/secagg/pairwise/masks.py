"""Mask expansion: G(seed) added to or taken from a ring vector in place.

G is AES-256-CTR over a zero counter block under the 32-byte seed; its first ceil(b d / 8) bytes are read as
b-bit little-endian words. Blocks are expanded and added while they are in cache.
"""

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

BLOCK_BYTES = 1 << 19
_ZEROS = bytes(BLOCK_BYTES)

ModVector = npt.NDArray[np.uint16] | npt.NDArray[np.uint32] | npt.NDArray[np.uint64]


def apply_mask(vector: ModVector, seed: bytes, sign: int, modulus_bits: int) -> None:
    """Add (sign > 0) or subtract G(seed) modulo 2**modulus_bits, in place.

    `vector` is uint16, uint32 (for 24 and 32 bits) or uint64 [d]. At 24 bits the top byte may be left dirty: the
    caller packs only the low three bytes.
    """
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    word_bytes = modulus_bits // 8
    step = BLOCK_BYTES // word_bytes if modulus_bits != 24 else BLOCK_BYTES // 4
    buffer = np.empty(min(BLOCK_BYTES, vector.size * word_bytes) + 15, np.uint8)
    operation = np.add if sign > 0 else np.subtract
    for start in range(0, vector.size, step):
        part = vector[start : start + step]
        size = part.size * word_bytes
        stream.update_into(memoryview(_ZEROS)[:size], memoryview(buffer.data))
        operation(part, _words(buffer[:size], word_bytes, vector.dtype), out=part)


def _words(data: npt.NDArray[np.uint8], word_bytes: int, dtype: np.dtype[np.generic]) -> ModVector:
    if word_bytes != 3:
        return data.view(dtype.newbyteorder("<"))
    wide = np.zeros((data.size // 3, 4), np.uint8)
    wide[:, :3] = data.reshape(-1, 3)
    return wide.view("<u4").reshape(-1)
