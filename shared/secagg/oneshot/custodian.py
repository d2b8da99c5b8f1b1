"""A custodian's side of a round: what it answers about each site's share, and its share of the sum of keys. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from undersong.shared.errors import Forbidden
from undersong.shared.fields import kernels64
from undersong.shared.fields.sums import add_field
from undersong.shared.ids import SiteId
from undersong.shared.lattice.packings import N
from undersong.shared.lattice.ring import UniformWords, Words
from undersong.shared.secagg import transcript
from undersong.shared.secagg.oneshot.dealing import ShareUnusable, has_digest, open_share
from undersong.shared.secagg.oneshot.messages import CheckAsk, Checked, Dealt, SetAsk
from undersong.shared.secagg.oneshot.sets import nonce_opens, set_statement
from undersong.shared.secagg.oneshot.terms import SHARE_WORDS, OneshotTerms, terms
from undersong.shared.wire.manifest import RoundManifest


class CustodianRefused(Forbidden):
    """The custodian does not do this: the request breaks a rule of the round."""


@dataclass(frozen=True, slots=True)
class Summed:
    """What came of a set: the answer, and the sum of shares where every one was of use (uint64[4096] as bytes)."""

    checked: Checked
    total: bytes | None


def members_of(manifest: RoundManifest, asked: SetAsk) -> list[SiteId]:
    """Return the sites of a set; raises CustodianRefused for one that is too small or of another cohort."""
    try:
        places = transcript.members(asked.members, len(manifest.cohort))
    except ValueError as error:
        raise CustodianRefused(str(error)) from error
    if len(places) < manifest.min_cohort:
        raise CustodianRefused(f"{len(places)} sites are fewer than the minimum cohort of {manifest.min_cohort}")
    return [manifest.cohort[place] for place in sorted(places)]


def witnessed_statement(manifest: RoundManifest, ask: CheckAsk) -> bytes:
    """Return what the witness must have signed; raises CustodianRefused for a set or a nonce that does not fit."""
    members, fixed = members_of(manifest, ask.asked), terms(manifest)
    if set(ask.dealt) != set(members) or len(ask.dealt) != len(members):
        raise CustodianRefused("the shares are not those of the sites in the set")
    if not nonce_opens(ask.witnessed.nonce, fixed.commitment):
        raise CustodianRefused("the nonce is not the one to which the manifest commits")
    return set_statement(fixed, ask.asked, ask.witnessed.nonce)


def check_and_sum(
    manifest: RoundManifest, index: int, private_key: bytes, ask: CheckAsk, untrusted: Mapping[SiteId, str]
) -> Summed:
    """Answer for every site of a witnessed set, and add up their shares.

    untrusted: sites whose signatures do not hold, with the reason. Deterministic. Blocking.
    """
    fixed, private = terms(manifest), X25519PrivateKey.from_private_bytes(private_key)
    factors = _factors(fixed, ask)
    total, words, unusable = np.zeros(N, np.uint64), dict[SiteId, int](), dict(untrusted)
    for site, dealt in ask.dealt.items():
        if site in unusable:
            continue
        try:
            share = _share(fixed, site, index, private, dealt)
        except ShareUnusable as refusal:
            unusable[site] = refusal.detail
            continue
        words[site] = int(kernels64.dot(factors, share))
        add_field(total, share[1:], out=total)
    return Summed(Checked(words, unusable), None if unusable else total.astype("<u8").tobytes())


def sum_digest(total: bytes) -> bytes:
    """Return the digest of a sum of shares, which the custodian signs."""
    return hashlib.sha256(total).digest()


def _share(fixed: OneshotTerms, site: SiteId, index: int, private_key: X25519PrivateKey, dealt: Dealt) -> Words:
    if not has_digest(dealt.digests, dealt.sealed):
        raise ShareUnusable("the site did not sign this share")
    return open_share(fixed, site, index, private_key, dealt.sealed)


def _factors(fixed: OneshotTerms, ask: CheckAsk) -> Words:
    """Return 1 for the mask, then a random factor for each coefficient: uint64[4097]."""
    key = fixed.check_key(ask.witnessed.nonce, ask.asked.members, ask.asked.root)
    return np.concatenate([np.ones(1, np.uint64), UniformWords(key).take(SHARE_WORDS - 1)])
