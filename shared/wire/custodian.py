"""What a custodian of a round signs: its key for the round, and its share of the one sum of keys that it gives.

Custodians are numbered from 0; each is a service of its own name, so that one operator cannot speak for two. Both
statements are over the manifest's digest: a signature is good for one attempt at one round.
"""

from typing import Final

from undersong.shared.ids import Digest

CUSTODIAN: Final = "custodian"
KEY_CONTEXT: Final = b"undersong/custodian-key/1\0"
SUM_CONTEXT: Final = b"undersong/custodian-sum/1\0"


def custodian_service(index: int) -> str:
    """Return the name under which this custodian is enrolled: ``custodian-1`` is that of index 0."""
    return f"{CUSTODIAN}-{index + 1}"


def key_statement(manifest_digest: Digest, index: int, public_key: bytes) -> bytes:
    """Under which HPKE key (X25519, 32 bytes) this custodian takes its shares of this round."""
    return KEY_CONTEXT + bytes.fromhex(manifest_digest) + index.to_bytes(2, "big") + public_key


def sum_statement(manifest_digest: Digest, index: int, members: bytes, root: bytes, sum_digest: bytes) -> bytes:
    """Which sum of its shares this custodian gives: SHA-256 of it, for one set of sites and their bodies."""
    return SUM_CONTEXT + bytes.fromhex(manifest_digest) + index.to_bytes(2, "big") + root + sum_digest + members
