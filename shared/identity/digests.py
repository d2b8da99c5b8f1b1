"""The Content-Digest header (RFC 9530), SHA-256 only."""

import base64
import binascii
import hashlib
import re
from typing import Final

_MEMBER: Final = re.compile(r"(?:^|,)[ \t]*sha-256=:([A-Za-z0-9+/]{43}=):[ \t]*(?=,|$)")


def content_digest(body: bytes) -> str:
    """Return the header's value for a whole body."""
    return content_digest_from(hashlib.sha256(body).digest())


def content_digest_from(sha256: bytes | str) -> str:
    """Return the header's value for a known SHA-256, as 32 bytes or as hexadecimal."""
    raw = bytes.fromhex(sha256) if isinstance(sha256, str) else sha256
    return f"sha-256=:{base64.b64encode(raw).decode()}:"


def parse_content_digest(value: str) -> bytes | None:
    """Return the SHA-256 that the header announces, or None when it announces none."""
    found = _MEMBER.findall(value)
    if len(found) != 1:
        return None
    try:
        return base64.b64decode(found[0], validate=True)
    except binascii.Error:
        return None
