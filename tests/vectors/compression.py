"""What an update's compression does, written down a second time from docs/protocols.md, by matrices and loops.

It shares no code with the product: the tests hold one against the other.
"""

import hashlib
import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def shared_key(seed: int, purpose: str) -> bytes:
    """The key of a draw that all parties of a round know."""
    return hashlib.sha256(b"undersong/shared-key/1\0" + f"{seed}/{purpose}".encode()).digest()


def stream(key: bytes, number: int, size: int) -> bytes:
    """Bytes of AES-256-CTR, of the counter space with this number."""
    cipher = Cipher(algorithms.AES256(key), modes.CTR(number.to_bytes(8, "big") + bytes(8))).encryptor()
    return cipher.update(bytes(size))


def chosen(seed: int, keep: float, parameters: int) -> tuple[list[int], list[int]]:
    """The parameters that are sent, and of how many each was drawn."""
    count = math.ceil(keep * parameters)
    words = stream(shared_key(seed, "keep"), 0, 4 * count)
    indices, runs = [], []
    for run in range(count):
        begin, end = run * parameters // count, (run + 1) * parameters // count
        word = int.from_bytes(words[4 * run : 4 * run + 4], "little")
        indices.append(begin + (word * (end - begin) >> 32))
        runs.append(end - begin)
    return indices, runs


def rotation(seed: int, length: int) -> np.ndarray:
    """The rotation as a matrix float64[length, length]."""
    key, block = shared_key(seed, "rotation"), 2 ** int(math.log2(length))
    turned = np.eye(length)
    for number, begin in enumerate([0] if block == length else [0, length - block]):
        octets = stream(key, number, -(-block // 8))
        signs = [-1 if octets[at // 8] >> (at % 8) & 1 else 1 for at in range(block)]
        step = np.eye(length)
        for row in range(block):
            for column in range(block):
                sign = -1 if (row & column).bit_count() % 2 else 1
                step[begin + row, begin + column] = sign * signs[column] / math.sqrt(block)
        turned = step @ turned
    return turned
