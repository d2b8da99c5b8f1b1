"""What the record of a round of engine `twoserver` must show: which reports the helper signed for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from undersong.shared.ids import Digest, SiteId
from undersong.shared.secagg import transcript
from undersong.shared.secagg.audit import (
    Check,
    RecordInvalid,
    body_positions,
    check_signature,
    cohort_transcript,
    many,
    refusing,
    said_by_sites,
)
from undersong.shared.secagg.quantise import counted
from undersong.shared.secagg.twoserver.messages import SetEvidence
from undersong.shared.wire.helper import accepted_statement
from undersong.shared.wire.manifest import RoundKind
from undersong.shared.wire.records import RoundRecord


class TwoServerAudit:
    """The engine's checks (`undersong.shared.secagg.audit.EngineAudit`)."""

    @refusing
    def protection(self, record: RoundRecord) -> str:
        """Say what was split, and what was proved of it."""
        split = "Two servers each held one half of every update; only their sum was opened"
        plan = record.manifest.manifest
        if plan.kind is RoundKind.TRAIN and plan.encoding is not None:
            if plan.encoding.clip_norm is None:
                raise RecordInvalid("the plan names no norm that the updates were proved to keep")
            return f"{split}, and each update was proved to have a norm of at most {plan.encoding.clip_norm:g}."
        if plan.kind is RoundKind.STATISTICS and plan.encoding is not None and counted(plan.encoding):
            return f"{split}, and each number was proved to be from 0 to {plan.encoding.bound:,}."
        return f"{split}; nothing was proved about the values."

    @refusing
    def named_voucher(self, record: RoundRecord) -> Digest:
        """Return the certificate with which the helper signed, as the record says."""
        return Digest(accepted_of(record).keyid.hex())

    def check_voucher(self, record: RoundRecord, voucher: bytes) -> None:
        """Raise unless this key signed the accepted set."""
        self.check(record, voucher)

    def identities(self, record: RoundRecord) -> Mapping[SiteId, bytes]:  # noqa: ARG002
        """Return the sites' signatures are checked by both servers, and are not in the record."""
        return {}

    def check(self, record: RoundRecord, voucher: bytes) -> None:
        """Check what the helper signed."""
        check_helper(record, voucher)

    def checks(self, record: RoundRecord, vouchers: Callable[[], Sequence[bytes]]) -> Sequence[Check]:
        """Return the one check."""

        def find() -> str:
            if not (keys := vouchers()):
                raise RecordInvalid("the certificate of the helper that signed the accepted set is missing")
            check_helper(record, keys[0])
            return (
                f"Check that the helper signed that it accepted exactly these {many(record.contributors, 'report')}, "
                "and its one share of their sum."
            )

        return (Check("helper", find),)

    def complainers(self, record: RoundRecord, site_id: SiteId) -> tuple[SiteId, ...]:  # noqa: ARG002
        """Sites give each other nothing."""
        return ()

    @refusing
    def transcript(self, record: RoundRecord) -> list[bytes]:
        """Return the heads of a round without roster and sharers."""
        return cohort_transcript(record)


@refusing
def check_helper(record: RoundRecord, helper_key: bytes) -> None:
    """Check that the helper signed that it accepted exactly these bodies' reports, and its one share of their sum."""
    if record.roster or record.sharers or said_by_sites(record):
        raise RecordInvalid(f"engine {record.engine} has no roster, sharers, signatures or complaints")
    said, manifest = accepted_of(record), record.manifest.manifest
    positions = body_positions(record)
    if transcript.members(said.members, len(manifest.cohort)) != frozenset(positions):
        raise RecordInvalid("the bodies are not those of the sites whose reports the helper accepted")
    if transcript.body_root(positions) != said.root:
        raise RecordInvalid("the bodies do not lead to the root that the helper signed")
    statement = accepted_statement(manifest.digest(), said.members, said.root, said.share_digest)
    check_signature(helper_key, said.signature, statement, "the helper's set")


def accepted_of(record: RoundRecord) -> SetEvidence:
    """Return what the helper signed; raises RecordInvalid or MessageMalformed."""
    if record.survivors is None:
        raise RecordInvalid("the record of a twoserver round needs what the helper signed")
    return SetEvidence.unpack(bytes.fromhex(record.survivors))


AUDIT: Final = TwoServerAudit()
