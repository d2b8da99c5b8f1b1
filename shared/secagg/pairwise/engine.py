"""The pairwise engine at the seam (`undersong.shared.secagg.engine`): six steps, and a witness asked twice.

advertise -> (witness signs the roster) -> share -> check -> upload -> (witness signs the survivors) -> commit ->
unmask. The first three run while the site trains. The manifest's `engine_params` fix what `terms` reads.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from undersong.shared.ids import SiteId
from undersong.shared.secagg.engine import (
    NO_ASKS,
    Asks,
    BodySource,
    Closed,
    Derive,
    Engine,
    Entropy,
    Opened,
    Replies,
    RoundEvidence,
    ServerRound,
    UpdateRefused,
)
from undersong.shared.secagg.pairwise.facts import FACTS
from undersong.shared.secagg.pairwise.masks import apply_mask
from undersong.shared.secagg.pairwise.roster import (
    Roster,
)
from undersong.shared.secagg.pairwise.server import NotEnoughShares
from undersong.shared.secagg.pairwise.site import PairwiseClient
from undersong.shared.secagg.pairwise.steps import (
    StepsState,
    close_advertise,
    close_check,
    close_commit,
    close_share,
    close_unmask,
    close_upload,
)
from undersong.shared.secagg.pairwise.terms import terms as terms  # part of this module's face
from undersong.shared.secagg.pairwise.uploads import MaskSignatures
from undersong.shared.secagg.quantise import ModVector
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.updates import UpdateHeader

_BLOCK: Final = 24 * 8192


class PairwiseServer:
    """Routes what clients say, and learns the masks of the sum only."""

    def open(self, manifest: RoundManifest, entropy: Entropy = os.urandom, derive: Derive | None = None) -> Opened:  # noqa: ARG002
        """Nothing to announce: the server has no key."""
        terms(manifest, b"")
        return Opened({}, StepsState().pack())

    def begun(self, server_round: ServerRound, opened: Opened, replies: Replies) -> Opened:  # noqa: ARG002
        """Raise: no party is asked at the beginning."""
        raise UpdateRefused("engine pairwise asks no party to begin a round")

    def body_size(self, manifest: RoundManifest, header: UpdateHeader) -> int:  # noqa: ARG002
        """Masked words are as long as plain ones."""
        if header.material:
            raise UpdateRefused("a masked update has no material")
        return header.plain_size

    def open_payload(self, server_round: ServerRound, header: UpdateHeader, source: BodySource) -> Iterator[memoryview]:  # noqa: ARG002
        """Yield the masked words as they came."""
        left = header.plain_size
        while left:
            part = source.take(min(_BLOCK, left))
            if len(part) != min(_BLOCK, left):
                raise UpdateRefused("the update's body ends too early")
            left -= len(part)
            yield part
        if len(source.take(1)):
            raise UpdateRefused("the update's body goes on after its last word")

    def close(
        self, server_round: ServerRound, step: str, messages: Mapping[SiteId, bytes], replies: Replies | None = None
    ) -> Closed:
        """End one of the six steps."""
        state, reply = StepsState.unpack(server_round.secret), None if replies is None else replies[0]
        match step:
            case "advertise":
                return close_advertise(server_round, state, messages, reply)
            case "share":
                return close_share(server_round, state, messages)
            case "check":
                return close_check(server_round, state, messages)
            case "upload":
                return close_upload(server_round, state, messages, reply)
            case "commit":
                return close_commit(server_round, state, messages)
            case "unmask":
                return close_unmask(server_round, state, messages)
        raise UpdateRefused(f"engine pairwise has no step {step}")

    def sum_length(self, manifest: RoundManifest, header: UpdateHeader) -> int:  # noqa: ARG002
        """Return the length of the payload."""
        return header.length

    def sum_asks(self, server_round: ServerRound) -> Asks:  # noqa: ARG002
        """Raise: no party is asked."""
        return NO_ASKS

    def unmask_sum(self, server_round: ServerRound, total: ModVector) -> ModVector:
        """Take the masks out of the sum, in place."""
        bits = _bits(server_round.manifest)
        state = StepsState.unpack(server_round.secret)
        if not state.corrections:
            raise NotEnoughShares("the survivors have not opened this round yet")
        for seed, sign in state.corrections:
            apply_mask(total, seed, sign, bits)
        if bits == 24:
            np.bitwise_and(total, 0xFFFFFF, out=total)
        return total

    def modulus(self, manifest: RoundManifest) -> int | None:  # noqa: ARG002
        """Words of the round's encoding."""
        return None

    def evidence(self, server_round: ServerRound) -> RoundEvidence:
        """Roster, sharers and survivors as the witness and the sites signed them."""
        state = StepsState.unpack(server_round.secret)
        members = Roster.unpack(state.roster).members
        signed = {SiteId(members[i].site_id): signature for i, signature in state.commitments.items()}
        complaints = {SiteId(members[i].site_id): said for i, said in state.complaints.items()}
        faults = {SiteId(site): code for site, code in state.faults.items()}
        uploads = {SiteId(members[i].site_id): signature for i, signature in state.uploads.items()}
        return RoundEvidence(state.roster, state.sharers, state.survivors, signed, complaints, faults, uploads)


def _bits(manifest: RoundManifest) -> int:
    if manifest.encoding is None:
        raise UpdateRefused("pairwise needs an encoding")
    return manifest.encoding.modulus_bits


PAIRWISE: Final = Engine(
    facts=FACTS,
    server=PairwiseServer(),
    client=PairwiseClient(),
    signing=MaskSignatures(),
)
