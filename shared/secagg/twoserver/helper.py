"""The helper's side of a round: its half of the verification of one report, and its share of the sum."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from undersong.shared.errors import Refusal
from undersong.shared.fields.sums import add_field, canonical
from undersong.shared.ids import SiteId
from undersong.shared.secagg.engine import Derive, Entropy
from undersong.shared.secagg.twoserver.messages import ReportQuestion, ReportVerdict
from undersong.shared.secagg.twoserver.noise import draw, noise_key
from undersong.shared.secagg.twoserver.report import aggregate_info, context, seal, share_info, unseal
from undersong.shared.secagg.twoserver.roles import HELPER
from undersong.shared.secagg.twoserver.schemes import WORD_BYTES, Words, scheme_for
from undersong.shared.wire.manifest import RoundManifest


@dataclass(frozen=True, slots=True)
class Taken:
    """A report that was accepted: as much of it as its part of the sum needs."""

    site_id: SiteId
    report_id: bytes
    length: int
    helper_share: bytes


@dataclass(frozen=True, slots=True)
class HelperKeys:
    """The helper's secrets of one round: HPKE, the verification key, the key of its share of the noise."""

    private_key: bytes
    verify_key: bytes
    noise_key: bytes

    @classmethod
    def make(cls, manifest: RoundManifest, entropy: Entropy, derive: Derive | None = None) -> "HelperKeys":
        """Fresh for a round; but the noise's key is the same in a job whose noise is correlated over rounds."""
        return cls(entropy(32), entropy(32), noise_key(manifest, entropy, derive))

    def pack(self) -> bytes:
        """96 bytes."""
        return self.private_key + self.verify_key + self.noise_key

    @classmethod
    def unpack(cls, data: bytes) -> "HelperKeys":
        """Return the inverse of `pack`."""
        return cls(data[:32], data[32:64], data[64:96])


def judge(manifest: RoundManifest, keys: HelperKeys, question: ReportQuestion) -> ReportVerdict:
    """Verify one report whose signature and place were checked. A pure function: the same question, the same verdict.

    Blocking: tens of milliseconds for a million parameters.
    """
    report, ctx = question.report, context(manifest)
    try:
        scheme = scheme_for(manifest, report.length)
        info = share_info(manifest, report.site_id, report.report_id, HELPER)
        share = unseal(report.helper_share, keys.private_key, info)
        state, said = scheme.begin(keys.verify_key, ctx, HELPER, report.report_id, report.public_share, share)
        message = scheme.message(ctx, [question.verifier_share, said])
        scheme.finish(ctx, state, message)
    except Refusal as refusal:
        return refused(refusal)
    return ReportVerdict(message)


def refused(refusal: Refusal) -> ReportVerdict:
    """Return the verdict that says no."""
    return ReportVerdict(None, refusal.slug()[:64], refusal.detail[:500])


def aggregate(manifest: RoundManifest, keys: HelperKeys, taken: Iterable[Taken]) -> Words:
    """Return the helper's share of the sum over these reports, with its noise where the round asks for it: uint64[d].

    Deterministic: call it for the one agreed set only. Blocking.
    """
    total: Words | None = None
    ctx, modulus = context(manifest), scheme_for(manifest, 1).modulus
    for report in taken:
        scheme = scheme_for(manifest, report.length)
        info = share_info(manifest, report.site_id, report.report_id, HELPER)
        share = unseal(report.helper_share, keys.private_key, info)
        words = scheme.out_share(ctx, HELPER, report.report_id, share)
        if total is None:
            total = np.zeros(report.length, np.uint64)
        operation = np.add if modulus is None else add_field
        operation(total, words, out=total)
    if total is None:
        raise ValueError("there is no report to add")
    noise = draw(manifest, total.size, keys.noise_key)
    if noise is not None and modulus is None:
        total += noise.view(np.uint64)
    elif noise is not None:
        add_field(total, canonical(noise), out=total)
    return total


def pack_share(total: Words) -> bytes:
    """Return an aggregate share as bytes: little-endian words."""
    return total.astype(f"<u{WORD_BYTES}", copy=False).tobytes()


def seal_share(manifest: RoundManifest, leader_key: bytes, packed: bytes) -> bytes:
    """Return the aggregate share, for the leader alone."""
    return seal(packed, leader_key, aggregate_info(manifest, b"aggregate-share"))


def seal_verify_key(manifest: RoundManifest, leader_key: bytes, keys: HelperKeys) -> bytes:
    """Return the verification key, for the leader alone; sites never know it."""
    return seal(keys.verify_key, leader_key, aggregate_info(manifest, b"verify-key"))
