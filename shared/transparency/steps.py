"""The checks over a round's record that hold for every engine; `undersong.shared.transparency.records.check_record`
runs them.

Each raises RecordInvalid with the reason. Pure: all keys are arguments, 32 raw bytes each.
"""

from undersong.shared.ids import SiteId
from undersong.shared.secagg.audit import RecordInvalid as RecordInvalid
from undersong.shared.secagg.audit import check_signature, refusing
from undersong.shared.secagg.engines import engine_audit
from undersong.shared.wire.records import RoundRecord


@refusing
def check_manifest(record: RoundRecord, coordinator_key: bytes) -> None:
    """Check that the manifest is signed by the coordinator."""
    signed = record.manifest
    check_signature(coordinator_key, bytes.fromhex(signed.signature), signed.manifest.statement(), "the manifest")


@refusing
def check_cohort(record: RoundRecord) -> None:
    """Check that engine, contributors and minimum are the manifest's, and that only sites of the cohort took part."""
    manifest, sites = record.manifest.manifest, record.bodies.keys()
    if record.engine != manifest.engine:
        raise RecordInvalid("the record is of another engine than the manifest")
    if record.contributors != len(sites):
        raise RecordInvalid("contributors is not the number of bodies")
    if not sites <= set(manifest.cohort):
        raise RecordInvalid("a body is from a site outside the cohort")
    if len(sites) < manifest.min_cohort:
        raise RecordInvalid(f"{len(sites)} updates are fewer than the minimum cohort of {manifest.min_cohort}")


@refusing
def check_transcript(record: RoundRecord) -> list[bytes]:
    """Return the transcript that the record names is that of its steps; its heads."""
    heads = transcript_of(record)
    if heads[-1].hex() != record.transcript:
        raise RecordInvalid("the transcript is not the one of these steps")
    return heads


def transcript_of(record: RoundRecord) -> list[bytes]:
    """Return the transcript's heads T0, T1, … up to the last, which belongs into `RoundRecord.transcript`.

    Raises RecordInvalid or EngineUnknown.
    """
    return engine_audit(record.engine).transcript(record)


def complainers(record: RoundRecord, site_id: SiteId) -> tuple[SiteId, ...]:
    """Return the sites that could not use what this site gave them, by their own signed complaints.

    Raises RecordInvalid or EngineUnknown.
    """
    return engine_audit(record.engine).complainers(record, site_id)
