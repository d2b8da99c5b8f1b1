"""A site's committed sample count: one Pedersen commitment for all rounds of a job, with a proof that it is in range.

What is committed is the count in the job's units, which is the weight that the site takes part with: 1 to the job's
`max_weight`. The proof is bound to federation, job, site, data set and limits, so it is good nowhere else. Nothing
here shows that the masked update was weighed with the committed count (docs/decisions/0010).
Shapes: a message is the commitment, 32 bytes, followed by the range proof (`proof_size` bytes; 1056 in all for 1…256).
"""

from dataclasses import dataclass
from typing import Final, Self

from undersong.shared.ids import SiteId
from undersong.shared.wire.canonical import canonical
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.zk.group import SIZE as COMMITMENT_SIZE
from undersong.shared.zk.group import Point
from undersong.shared.zk.pedersen import Opening
from undersong.shared.zk.range_proof import proof_size, prove_range, verify_range
from undersong.shared.zk.transcript import ProofInvalid

__all__ = ["COMMITMENT_SIZE", "Committed", "context_of", "read_commitment", "takes_commitments", "verify"]
LABEL: Final = "undersong/sample-count/1"


@dataclass(frozen=True, slots=True)
class Committed:
    """What a site keeps: the opening, which is secret, and the message that everybody may see."""

    opening: Opening
    message: bytes

    @classmethod
    def make(
        cls,
        manifest: RoundManifest,
        site_id: SiteId,
        weight: int,
        *,
        opening: Opening | None = None,
        entropy: bytes | None = None,
    ) -> Self:
        """Commit to this weight; raises `OutsideRange`. `opening`, `entropy`: fresh unless a test repeats a run."""
        opening = Opening.fresh(weight) if opening is None else opening
        proof = prove_range(opening, 1, _limit(manifest), context_of(manifest, site_id), entropy=entropy)
        return cls(opening, opening.commitment.encoded + proof)


def takes_commitments(manifest: RoundManifest) -> bool:
    """Return whether sites commit in this round: where they train, and a sample count has a weight."""
    return manifest.kind is RoundKind.TRAIN and _limit(manifest) > 1


def verify(manifest: RoundManifest, site_id: SiteId, message: bytes) -> None:
    """Check that it is this site's and proves its range; raises `ProofInvalid`, `PointInvalid` or `ScalarInvalid`."""
    size = COMMITMENT_SIZE + proof_size(1, _limit(manifest))
    if len(message) != size:
        raise ProofInvalid(f"the committed sample count has {len(message)} bytes, this job's have {size}")
    commitment = read_commitment(message)
    verify_range(commitment, 1, _limit(manifest), context_of(manifest, site_id), message[COMMITMENT_SIZE:])


def read_commitment(message: bytes) -> Point:
    """Return the commitment alone; raises `PointInvalid` or `IdentityRefused`."""
    return Point.element(message[:COMMITMENT_SIZE])


def context_of(manifest: RoundManifest, site_id: SiteId) -> bytes:
    """Return what the proof is bound to; the same in all rounds of a job."""
    return canonical(
        {
            "label": LABEL,
            "federation_id": manifest.federation_id,
            "job_id": manifest.job_id,
            "site_id": site_id,
            "dataset": manifest.data.dataset,
            "weight_unit": manifest.weight_unit,
            "max_weight": _limit(manifest),
        }
    )


def _limit(manifest: RoundManifest) -> int:
    return 1 if manifest.encoding is None else manifest.encoding.max_weight
