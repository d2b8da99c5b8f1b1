"""What the record of a round of engine `sealed` must show: that it claims no signature that this engine lacks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from undersong.shared.ids import Digest, SiteId
from undersong.shared.secagg.audit import Check, RecordInvalid, cohort_transcript, refusing, said_by_sites
from undersong.shared.wire.records import RoundRecord


class SealedAudit:
    """The engine's checks (`undersong.shared.secagg.audit.EngineAudit`)."""

    def protection(self, record: RoundRecord) -> str:
        """Say what the aggregator could see, once the record claims no more than that."""
        self.check(record, b"")
        return (
            f"Weak: with engine {record.engine} the aggregator could see every single update, "
            "and who is in the sum rests on its word."
        )

    def named_voucher(self, record: RoundRecord) -> Digest | None:  # noqa: ARG002
        """Return nothing: no witness signs the set."""
        return None

    def check_voucher(self, record: RoundRecord, voucher: bytes) -> None:  # noqa: ARG002
        """Raise: no witness signs the set."""
        raise RecordInvalid(f"in a round of engine {record.engine} no party vouches for the set of updates")

    def identities(self, record: RoundRecord) -> Mapping[SiteId, bytes]:  # noqa: ARG002
        """No site signs anything."""
        return {}

    def check(self, record: RoundRecord, voucher: bytes) -> None:  # noqa: ARG002
        """Raise where the record claims what a witness or a site would have signed."""
        if record.roster or record.sharers or record.survivors or said_by_sites(record):
            raise RecordInvalid(f"engine {record.engine} has no roster, sharers, survivors, signatures or complaints")

    def checks(self, record: RoundRecord, vouchers: Callable[[], Sequence[bytes]]) -> Sequence[Check]:  # noqa: ARG002
        """There is nothing to check beside what `protection` does."""
        return ()

    def complainers(self, record: RoundRecord, site_id: SiteId) -> tuple[SiteId, ...]:  # noqa: ARG002
        """Sites give each other nothing."""
        return ()

    @refusing
    def transcript(self, record: RoundRecord) -> list[bytes]:
        """Return the heads of a round without roster and sharers."""
        return cohort_transcript(record)


AUDIT: Final = SealedAudit()
