"""Names of things: one type per kind of id, so that swapped arguments do not pass the checker.

An id is ``<prefix>_<ULID>``: 48 bits of milliseconds and 80 random bits in lowercase Crockford base 32 (26 characters).
Ids therefore sort by the time they were made, and do not show how many there are.
"""

import hashlib
import re
import secrets
import time
from typing import Final, NewType

FederationId = NewType("FederationId", str)
SiteId = NewType("SiteId", str)
JobId = NewType("JobId", str)
RoundId = NewType("RoundId", str)
TaskId = NewType("TaskId", str)
ModelId = NewType("ModelId", str)
VersionId = NewType("VersionId", str)
UserId = NewType("UserId", str)
TokenId = NewType("TokenId", str)
EventId = NewType("EventId", str)
WebhookId = NewType("WebhookId", str)
DeliveryId = NewType("DeliveryId", str)
ScheduleId = NewType("ScheduleId", str)
SweepId = NewType("SweepId", str)
Digest = NewType("Digest", str)
"""Lowercase hexadecimal SHA-256."""

PREFIXES: Final = frozenset(
    {
        "fed",
        "site",
        "job",
        "rnd",
        "task",
        "mdl",
        "ver",
        "usr",
        "tok",
        "evt",
        "req",
        "chl",
        "whk",
        "dlv",
        "sch",
        "swp",
        "act",
    }
)
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_ID: Final = re.compile(r"(?P<prefix>[a-z]{2,8})_[0-7][0-9a-hjkmnp-tv-z]{25}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def new_id(prefix: str) -> str:
    """Return a fresh id, for example ``new_id("job")``; raises ValueError for a prefix that is not in `PREFIXES`."""
    if prefix not in PREFIXES:
        raise ValueError(f"unknown id prefix {prefix!r}")
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(secrets.token_bytes(10), "big")
    return f"{prefix}_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def is_id(text: str, prefix: str) -> bool:
    """Return whether `text` is a well-formed id of this kind."""
    match = _ID.fullmatch(text)
    return match is not None and match["prefix"] == prefix


def looks_like_id(text: str) -> bool:
    """Return whether `text` has the form of an id, of whatever kind."""
    return _ID.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Return whether `text` is a lowercase hexadecimal SHA-256."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(data: bytes | memoryview) -> Digest:
    """SHA-256 of the bytes, in lowercase hexadecimal."""
    return Digest(hashlib.sha256(data).hexdigest())
