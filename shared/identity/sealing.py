"""Secrets at rest: AES-256-GCM with table, row and column as associated data, under a key file.

A key file holds one 32-byte key in hexadecimal a line. The first line seals, every line opens: rotation writes a new
first line, re-seals the rows with `Sealer.reseal`, and keeps the line before, for what a running process sealed
meanwhile. Running processes follow the file.
A key of the file is also what other secrets of a service are derived from, for labels, by HKDF-SHA256 (RFC 5869).
Sealed form: version (1 byte) || key tag (4 bytes of SHA-256 of the key) || nonce (12) || ciphertext and tag.
"""

import hashlib
import secrets
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from undersong.shared.files import FileMark, mark_of, read_bytes, read_text
from undersong.shared.identity.authority import write_private

_VERSION: Final = b"\x01"
_DERIVED: Final = b"undersong/derived/1\0"
_TAG_BYTES: Final = 4
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
MOST_USES: Final = 2**32
"""Of one key with random nonces: NIST SP 800-38D, §8.3."""
_made: Counter[str] = Counter()


class SealBrokenError(Exception):
    """The sealed bytes were changed, moved to another row, or sealed under a key that the key file does not hold."""


class Sealer:
    """Seals and opens single column values."""

    def __init__(self, key_file: Path) -> None:
        self._file = key_file
        self._keys, self._current, self._read = _read(key_file)

    @classmethod
    def ensure(cls, key_file: Path) -> Self:
        """Open the key file; make it (0600) when it is not there."""
        try:
            return cls(key_file)
        except FileNotFoundError:
            key_file.parent.mkdir(parents=True, exist_ok=True)
            write_private(key_file, secrets.token_hex(_KEY_BYTES).encode() + b"\n")
        return cls(key_file)

    def seal(self, plaintext: bytes, table: str, row: str, column: str) -> bytes:
        """Encrypt for one place; the result opens nowhere else."""
        self._follow()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        _made[self._current.hex()] += 1
        sealed = self._keys[self._current].encrypt(nonce, plaintext, _place(table, row, column))
        return _VERSION + self._current + nonce + sealed

    def open(self, sealed: bytes, table: str, row: str, column: str) -> bytes:
        """Return the plaintext; raises SealBrokenError."""
        tag, rest = sealed[1 : 1 + _TAG_BYTES], sealed[1 + _TAG_BYTES :]
        if tag not in self._keys:
            self._follow()
        if sealed[:1] != _VERSION or tag not in self._keys:
            raise SealBrokenError(f"{table}.{column}: sealed under a key that the key file does not hold")
        try:
            return self._keys[tag].decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], _place(table, row, column))
        except (InvalidTag, ValueError) as error:
            raise SealBrokenError(f"{table}.{column}: the sealed bytes do not belong here") from error

    def derive(self, label: bytes) -> bytes:
        """Return 32 secret bytes for a label, the same ones as long as the file's first key stays; nothing is stored.

        The label names what they are for: a purpose of its own, and what of. Raises OSError, and ValueError.
        """
        return HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=_DERIVED + label).derive(_keys_in(self._file)[0])

    def is_current(self, sealed: bytes) -> bool:
        """Return whether the value is sealed under the key file's first key."""
        self._follow()
        return sealed[1 : 1 + _TAG_BYTES] == self._current

    def reseal(self, sealed: bytes, table: str, row: str, column: str) -> bytes:
        """Return the same plaintext under the key file's first key."""
        return self.seal(self.open(sealed, table, row, column), table, row, column)

    def _follow(self) -> None:
        """Read the file again when it has changed; a file that cannot be read now is left for the next time."""
        with suppress(OSError, ValueError):
            if mark_of(self._file.stat()) != self._read:
                self._keys, self._current, self._read = _read(self._file)


def _read(key_file: Path) -> tuple[dict[bytes, AESGCM], bytes, FileMark]:
    """Tag → key, the tag of the key that seals, and the file's mark."""
    written = mark_of(key_file.stat())
    keys = _keys_in(key_file)
    tagged = {hashlib.sha256(key).digest()[:_TAG_BYTES]: AESGCM(key) for key in keys}
    return tagged, next(iter(tagged)), written


def _keys_in(key_file: Path) -> list[bytes]:
    """Return the keys, the one that seals first; the ValueError for other content names only the file."""
    try:
        keys = [bytes.fromhex(line) for line in read_text(key_file, "ascii").split()]
    except ValueError:
        keys = []
    if not keys or any(len(key) != _KEY_BYTES for key in keys):
        raise ValueError(f"{key_file}: expected one key of 64 hexadecimal digits a line")
    return keys


def take_uses() -> Counter[str]:
    """Return how often this process sealed since the last call, by the key's tag."""
    taken = Counter(_made)
    _made.subtract(taken)
    return taken


def tag_of_current(key_file: Path) -> str:
    """Return the tag of the key that seals."""
    return hashlib.sha256(_keys_in(key_file)[0]).digest()[:_TAG_BYTES].hex()


def add_key(key_file: Path) -> None:
    """Put a fresh key first in the key file; the old ones still open."""
    write_private(key_file, secrets.token_hex(_KEY_BYTES).encode() + b"\n" + read_bytes(key_file))


def drop_old_keys(key_file: Path) -> None:
    """Keep the first key and the one before it; call it when every row has been re-sealed.

    The one before stays until the next rotation: a transaction that was under way may have sealed with it.
    """
    write_private(key_file, b"\n".join(read_bytes(key_file).split()[:2]) + b"\n")


def _place(table: str, row: str, column: str) -> bytes:
    parts = (part.encode() for part in ("undersong/seal/1", table, row, column))
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
