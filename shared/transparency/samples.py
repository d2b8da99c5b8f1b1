"""Checking the committed sample counts that stand in a round's record. Pure, offline."""

from undersong.shared.errors import Refusal
from undersong.shared.ids import SiteId
from undersong.shared.transparency.documents import RoundRecord
from undersong.shared.transparency.steps import RecordInvalid
from undersong.shared.wire.manifest import RoundKind


def takes_samples(record: RoundRecord) -> bool:
    """Return whether the round's sites had to commit: `undersong.shared.zk.samples.takes_commitments`, without loading
    libsodium.
    """
    plan = record.manifest.manifest
    return plan.kind is RoundKind.TRAIN and plan.encoding is not None and plan.encoding.max_weight > 1


def check_samples(record: RoundRecord) -> int:
    """Return every site in the sum has a commitment, and each proof here holds; how many there are.

    Raises RecordInvalid.
    """
    from undersong.shared.zk import samples  # libsodium: only where there is something to check

    if set(record.samples) != set(record.bodies):
        raise RecordInvalid("the committed sample counts are not those of the sites in the sum")
    if not set(record.sample_proofs) <= set(record.samples):
        raise RecordInvalid("there is a proof about a site that is not in the sum")
    for site_id, commitment in record.samples.items():
        proof = record.sample_proofs.get(site_id)
        try:
            if proof is None:
                samples.read_commitment(bytes.fromhex(commitment))
            else:
                samples.verify(record.manifest.manifest, site_id, bytes.fromhex(commitment + proof))
        except Refusal as refusal:
            raise RecordInvalid(f"the sample count of {site_id}: {refusal.detail}") from refusal
    return len(record.sample_proofs)


def check_own_samples(record: RoundRecord, site_id: SiteId, commitment: str | None) -> None:
    """Check that the record names this site's own commitment (hexadecimal), if it made one; raises RecordInvalid."""
    if takes_samples(record) and record.samples.get(site_id) != commitment:
        raise RecordInvalid("the record names another sample count than this site committed to, or none")
