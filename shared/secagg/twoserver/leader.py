"""The leader's side of a round: what it keeps, and its half of the verification of one report."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from undersong.shared.ids import SiteId
from undersong.shared.secagg.engine import BodySource, ServerRound, UpdateRefused
from undersong.shared.secagg.twoserver.messages import ReportQuestion, SetEvidence
from undersong.shared.secagg.twoserver.report import SEALING_BYTES, Report, ReportMalformed, context, share_info, unseal
from undersong.shared.secagg.twoserver.roles import LEADER
from undersong.shared.secagg.twoserver.schemes import SplitScheme, scheme_for
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.updates import UpdateHeader


@dataclass(frozen=True, slots=True)
class LeaderState:
    """What the leader keeps of a round: sealed at rest, gone with the round.

    private_key: HPKE, for its own shares and for what the helper seals to it. noise_key: of its own share of the
    noise, drawn once, or derived where noise is correlated over rounds. evidence: the accepted set, once the helper
    has signed it.
    """

    private_key: bytes
    noise_key: bytes
    verify_key: bytes = b""
    evidence: bytes = b""

    def pack(self) -> bytes:
        """As bytes."""
        return bytes(msgpack.packb([self.private_key, self.noise_key, self.verify_key, self.evidence]))

    @classmethod
    def unpack(cls, data: bytes) -> "LeaderState":
        """Return the inverse of `pack`."""
        return cls(*msgpack.unpackb(data))

    def agreed(self, evidence: SetEvidence) -> "LeaderState":
        """Return the helper has signed the accepted set."""
        return replace(self, evidence=evidence.pack())


def leader_key(secret: bytes) -> bytes:
    """Return the public half of the leader's HPKE key, from its stored state."""
    private = X25519PrivateKey.from_private_bytes(LeaderState.unpack(secret).private_key)
    return private.public_key().public_bytes_raw()


@dataclass(frozen=True, slots=True)
class Pending:
    """A report that waits for the helper's verdict."""

    question: ReportQuestion
    scheme: SplitScheme
    state: Any

    @property
    def site_id(self) -> SiteId:
        """Whose it is."""
        return self.question.report.site_id


def examine(server_round: ServerRound, header: UpdateHeader, source: BodySource, body_digest: bytes) -> Pending:
    """Open the leader's share of a report and begin its verification; a Refusal where that is impossible."""
    report, scheme = Report.of(header), scheme_for(server_round.manifest, header.length)
    state = LeaderState.unpack(server_round.secret)
    share = leader_share(server_round, report, scheme, source)
    ctx = context(server_round.manifest)
    kept, said = scheme.begin(state.verify_key, ctx, LEADER, report.report_id, report.public_share, share)
    return Pending(ReportQuestion(report, body_digest, said), scheme, kept)


def accept(manifest: RoundManifest, pending: Pending, message: bytes) -> None:
    """Check the helper's verdict on a report that it accepts; a Refusal where the report does not hold here."""
    pending.scheme.finish(context(manifest), pending.state, message)


def leader_share(server_round: ServerRound, report: Report, scheme: SplitScheme, source: BodySource) -> bytes:
    """Return the leader's share, opened; raises ReportMalformed, ReportSealedElsewhere or UpdateRefused."""
    size = sealed_size(scheme)
    sealed = source.take(size)
    if len(sealed) != size:
        raise UpdateRefused("the update's body ends too early")
    if hashlib.sha256(sealed).digest() != report.leader_digest:
        raise ReportMalformed("the leader's share is not the one that the site signed")
    info = share_info(server_round.manifest, report.site_id, report.report_id, LEADER)
    share = unseal(sealed, LeaderState.unpack(server_round.secret).private_key, info)
    if len(source.take(1)):
        raise UpdateRefused("the update's body goes on after the leader's share")
    return share


def sealed_size(scheme: SplitScheme) -> int:
    """Bytes of the leader's sealed share, which is the whole payload."""
    return scheme.leader_size + SEALING_BYTES
