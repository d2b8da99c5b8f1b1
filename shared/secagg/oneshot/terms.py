"""What a signed manifest fixes for a round: how many custodians, how many of them open it, and what it is bound to."""

from dataclasses import dataclass
from typing import Final

from undersong.shared.ids import Digest, SiteId
from undersong.shared.lattice.packings import N, Packing
from undersong.shared.secagg.engine import UpdateRefused
from undersong.shared.secagg.oneshot.room import check_room, packing_of
from undersong.shared.secagg.transcript import tagged_hash
from undersong.shared.wire.manifest import RoundManifest

SUITE_ID: Final = b"undersong-oneshot-1"
SIZES: Final = frozenset({(3, 2), (5, 3), (7, 4)})
"""Custodians, and how many of them open a sum."""
WORD: Final = 8
SHARE_WORDS: Final = 1 + N
"""A share: one word that masks the check, and one for each coefficient of the key."""


@dataclass(frozen=True, slots=True)
class OneshotTerms:
    """The manifest's part in the engine."""

    manifest_digest: Digest
    custodians: int
    threshold: int
    commitment: bytes
    packing: Packing

    @property
    def digest(self) -> bytes:
        """The manifest's digest as bytes."""
        return bytes.fromhex(self.manifest_digest)

    def public_key(self, keys: dict[int, bytes]) -> bytes:
        """Return the key of the stream of public polynomials.

        It follows from what every custodian has chosen afresh for this round, so none of them alone can choose it.
        """
        named = [index.to_bytes(2, "big") + key for index, key in sorted(keys.items())]
        return tagged_hash("oneshot-a", SUITE_ID, self.digest, *named)

    def check_key(self, nonce: bytes, members: bytes, root: bytes) -> bytes:
        """Return the key of the stream of factors by which custodians are asked about their shares."""
        return tagged_hash("oneshot-rho", SUITE_ID, self.digest, nonce, members, root)

    def share_info(self, site_id: SiteId, index: int) -> bytes:
        """Return the HPKE info of one site's share for one custodian."""
        return tagged_hash("oneshot-share", SUITE_ID, self.digest, site_id.encode(), index.to_bytes(2, "big"))

    def sum_info(self, index: int) -> bytes:
        """Return the HPKE info of one custodian's sum for the aggregator."""
        return tagged_hash("oneshot-sum", SUITE_ID, self.digest, index.to_bytes(2, "big"))


def terms(manifest: RoundManifest) -> OneshotTerms:
    """Return what the manifest fixes; raises UpdateRefused, or NoRoom where the sum could not be read."""
    params = manifest.engine_params
    custodians, threshold, commitment = (params.get(name) for name in ("custodians", "threshold", "nonce_commitment"))
    if manifest.encoding is None or (custodians, threshold) not in SIZES:
        sizes = ", ".join(f"{t} of {m}" for m, t in sorted(SIZES))
        raise UpdateRefused(f"the round needs an encoding, and engine_params custodians and threshold: {sizes}")
    if not isinstance(custodians, int) or not isinstance(threshold, int):
        raise UpdateRefused("engine_params custodians and threshold are whole numbers")
    if not isinstance(commitment, str) or len(commitment) != 64:
        raise UpdateRefused("engine_params nonce_commitment is 32 bytes in hexadecimal")
    check_room(manifest.encoding)
    return OneshotTerms(
        manifest.digest(), custodians, threshold, bytes.fromhex(commitment), packing_of(manifest.encoding)
    )
