"""A site's key, dealt to the custodians: shares, how each is sealed, and what the site signs about them.

The first t - 1 of the custodians that take part get a share that is uniform, and so a key that it expands from. The
site's signature covers the digest of each sealed share: a custodian verifies its own without the body.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from undersong.shared.errors import Invalid
from undersong.shared.ids import SiteId
from undersong.shared.lattice.ring import KEY_BYTES, UniformWords, Words
from undersong.shared.lattice.shamir import deal, expanded, is_share
from undersong.shared.secagg.engine import Entropy, UpdateRefused
from undersong.shared.secagg.hpke import SUITE
from undersong.shared.secagg.oneshot.terms import SHARE_WORDS, WORD, OneshotTerms
from undersong.shared.secagg.transcript import tagged_hash
from undersong.shared.wire.updates import UpdateHeader

SEALING_BYTES: Final = 32 + 16  # HPKE's encapsulated key and tag
_DIGEST: Final = 32
_NAMES: Final = frozenset({"share_digests", "keyid", "signature"})


class ShareUnusable(Invalid):
    """A share does not open, or is none."""


@dataclass(frozen=True, slots=True)
class Dealing:
    """What a body's header says of its shares."""

    digests: bytes
    keyid: bytes
    signature: bytes

    @classmethod
    def of(cls, header: UpdateHeader) -> "Dealing":
        """Read it; raises UpdateRefused."""
        match header.material:
            case {
                "share_digests": bytes() as digests,
                "keyid": bytes() as keyid,
                "signature": bytes() as signature,
            } if header.material.keys() == _NAMES and len(keyid) == 32 and len(signature) == 64:
                return cls(digests, keyid, signature)
        raise UpdateRefused("the body's header holds share_digests, keyid and signature")

    @property
    def count(self) -> int:
        """How many shares there are."""
        return len(self.digests) // _DIGEST

    def material(self) -> dict[str, bytes | int]:
        """Return the parts, as they are in the header."""
        return {"share_digests": self.digests, "keyid": self.keyid, "signature": self.signature}


def share_size(terms: OneshotTerms, position: int) -> int:
    """Return how many bytes the sealed share has of the custodian at this position among those that take part."""
    return SEALING_BYTES + (KEY_BYTES if position < terms.threshold - 1 else WORD * SHARE_WORDS)


def shares_size(terms: OneshotTerms, count: int) -> int:
    """Return how many bytes all sealed shares have together."""
    return sum(share_size(terms, position) for position in range(count))


def deal_key(
    terms: OneshotTerms, site_id: SiteId, keys: Mapping[int, bytes], secret: Words, entropy: Entropy
) -> list[bytes]:
    """Return the sealed share of each custodian, in their order, of a site's secret polynomial."""
    order = sorted(keys)
    mask = UniformWords(entropy(KEY_BYTES)).take(1)
    seeds = [entropy(KEY_BYTES) for _ in range(terms.threshold - 1)]
    dealt = deal(np.concatenate([mask, secret]), [index + 1 for index in order], seeds)
    plain = [*seeds, *(words.astype("<u8").tobytes() for words in dealt)]
    return [
        SUITE.encrypt(share, X25519PublicKey.from_public_bytes(keys[index]), terms.share_info(site_id, index))
        for index, share in zip(order, plain, strict=True)
    ]


def open_share(terms: OneshotTerms, site_id: SiteId, index: int, private_key: X25519PrivateKey, sealed: bytes) -> Words:
    """Return a custodian's share of a site's key, uint64[4097]; raises ShareUnusable."""
    try:
        plain = SUITE.decrypt(sealed, private_key, terms.share_info(site_id, index))
    except (InvalidTag, ValueError):
        raise ShareUnusable("the share was sealed for another round, site or custodian") from None
    if len(plain) == KEY_BYTES:
        return expanded(plain, SHARE_WORDS)
    if len(plain) != WORD * SHARE_WORDS:
        raise ShareUnusable(f"a share has {WORD * SHARE_WORDS} bytes, not {len(plain)}")
    words = np.frombuffer(plain, "<u8").astype(np.uint64)
    if not is_share(words):
        raise ShareUnusable("a word of the share is not below q")
    return words


def digests_of(sealed: list[bytes]) -> bytes:
    """Return the digests of sealed shares, one behind the other."""
    return b"".join(hashlib.sha256(share).digest() for share in sealed)


def has_digest(digests: bytes, sealed: bytes) -> bool:
    """Return whether one of the digests is that of a sealed share."""
    digest = hashlib.sha256(sealed).digest()
    return any(digests[at : at + _DIGEST] == digest for at in range(0, len(digests), _DIGEST))


def dealing_statement(terms: OneshotTerms, site_id: SiteId, digests: bytes) -> bytes:
    """Return what the site signs: that it dealt exactly these shares in this round."""
    return tagged_hash("oneshot-dealing", terms.digest, site_id.encode(), digests)


def body_statement(terms: OneshotTerms, site_id: SiteId, digest: bytes) -> bytes:
    """Return what the site signs: that this is its body in this round."""
    return tagged_hash("oneshot-body", terms.digest, site_id.encode(), digest)
