"""What the record of a round of engine `oneshot` must show: the one set of sites that the witness signed."""

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
from undersong.shared.secagg.oneshot.sets import WitnessedSet, nonce_opens, set_statement
from undersong.shared.secagg.oneshot.terms import terms
from undersong.shared.wire.records import RoundRecord


class OneshotAudit:
    """The engine's checks (`undersong.shared.secagg.audit.EngineAudit`)."""

    @refusing
    def protection(self, record: RoundRecord) -> str:
        """Say what was encrypted, and who could open it."""
        fixed = terms(record.manifest.manifest)
        return (
            f"Each update was encrypted under a key that {fixed.threshold} of {fixed.custodians} custodians could open "
            "only together, and they opened the sum alone (experimental); nothing was proved about the values."
        )

    @refusing
    def named_voucher(self, record: RoundRecord) -> Digest:
        """Return the certificate with which the witness signed, as the record says."""
        return Digest(vouched_of(record).witnessed.keyid.hex())

    def check_voucher(self, record: RoundRecord, voucher: bytes) -> None:
        """Raise unless this key signed the set."""
        check_set(record, voucher)

    def identities(self, record: RoundRecord) -> Mapping[SiteId, bytes]:  # noqa: ARG002
        """Return nothing: the custodians check the sites' signatures, which are not in the record."""
        return {}

    def check(self, record: RoundRecord, voucher: bytes) -> None:
        """Check what the witness signed."""
        check_set(record, voucher)

    def checks(self, record: RoundRecord, vouchers: Callable[[], Sequence[bytes]]) -> Sequence[Check]:
        """Return the one check."""

        def find() -> str:
            if not (keys := vouchers()):
                raise RecordInvalid("the certificate of the witness that signed the set is missing")
            check_set(record, keys[0])
            return (
                f"Check that the witness signed that exactly these {many(record.contributors, 'body')} are in the sum."
            )

        return (Check("set", find),)

    def complainers(self, record: RoundRecord, site_id: SiteId) -> tuple[SiteId, ...]:  # noqa: ARG002
        """Sites give each other nothing."""
        return ()

    @refusing
    def transcript(self, record: RoundRecord) -> list[bytes]:
        """Return the heads of a round without roster and sharers."""
        return cohort_transcript(record)


@refusing
def check_set(record: RoundRecord, witness_key: bytes) -> None:
    """Check that the witness signed exactly these bodies, with the nonce to which the manifest commits."""
    if record.roster or record.sharers or said_by_sites(record):
        raise RecordInvalid(f"engine {record.engine} has no roster, sharers, signatures or complaints")
    vouched, manifest, positions = vouched_of(record), record.manifest.manifest, body_positions(record)
    fixed, said = terms(manifest), vouched.asked
    if transcript.members(said.members, len(manifest.cohort)) != frozenset(positions):
        raise RecordInvalid("the bodies are not those of the sites that the witness signed")
    if transcript.body_root(positions) != said.root:
        raise RecordInvalid("the bodies do not lead to the root that the witness signed")
    if not nonce_opens(vouched.witnessed.nonce, fixed.commitment):
        raise RecordInvalid("the nonce is not the one to which the manifest commits")
    statement = set_statement(fixed, said, vouched.witnessed.nonce)
    check_signature(witness_key, vouched.witnessed.signature, statement, "the witness's set")


def vouched_of(record: RoundRecord) -> WitnessedSet:
    """Return what the witness signed; raises RecordInvalid or MessageMalformed."""
    if record.survivors is None:
        raise RecordInvalid("the record of a oneshot round needs the set that the witness signed")
    return WitnessedSet.unpack(bytes.fromhex(record.survivors))


AUDIT: Final = OneshotAudit()
