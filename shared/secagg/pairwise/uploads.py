"""What a site signs about its masked body, and who checks it: sig_i("mask", ctx, U2, SHA-256 of the body).

The signature travels beside the body, because it covers the body's digest. The aggregator stores it, the witness
demands one of every survivor before it signs a survivor set, and the round's record holds them: a site that uploaded
nothing cannot be recorded as a contributor, and all survivors were shown one list of sharers (U2).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import msgpack

from undersong.shared.ids import SiteId
from undersong.shared.secagg import transcript
from undersong.shared.secagg.engine import ClientRound, ServerRound, UpdateRefused
from undersong.shared.secagg.pairwise import contexts
from undersong.shared.secagg.pairwise.client import ClientState
from undersong.shared.secagg.pairwise.messages import SIGNATURE_BYTES, MalformedStep
from undersong.shared.secagg.pairwise.roster import DIGEST_BYTES, Roster, RoundAborted, masked_statement, verify
from undersong.shared.secagg.pairwise.terms import terms


class MaskSignatures:
    """The signature over a masked body, at both ends (`undersong.shared.secagg.engine.BodySigning`)."""

    def sign(self, client_round: ClientRound, state: bytes, body_digest: bytes) -> bytes:
        """Sign the body that goes with this state, which is the one after the upload."""
        if client_round.witness is None or client_round.sign is None:
            raise UpdateRefused("pairwise needs the key of the witness and the site's identity key")
        client = ClientState.load(terms(client_round.manifest, client_round.witness), client_round.site_id, state)
        return client.sign_masked(body_digest, client_round.sign)

    def check(self, server_round: ServerRound, site_id: SiteId, body_digest: bytes, signature: bytes) -> None:
        """Raise UpdateRefused unless the sharer `site_id` signed this body for this round and these sharers."""
        expected = _expected(server_round.secret, terms(server_round.manifest, b"").ctx0)
        identity = expected.identities.get(site_id)
        if identity is None:
            raise UpdateRefused(f"{site_id} is not among the sharers of this round")
        try:
            verify(identity, signature, masked_statement(expected.ctx, expected.sharers, body_digest), "the update")
        except RoundAborted as error:
            raise UpdateRefused("the update is not signed by its site for this round and its sharers") from error


@dataclass(frozen=True, slots=True)
class _Expected:
    ctx: bytes
    sharers: bytes
    identities: Mapping[str, bytes]


@lru_cache(maxsize=8)
def _expected(secret: bytes, ctx0: bytes) -> _Expected:
    """Return what all uploads of one round are checked against; a roster of a thousand is not parsed for each of
    them.
    """
    state = msgpack.unpackb(secret, raw=False, strict_map_key=False)
    frozen, sharers = Roster.unpack(state["roster"]), state["sharers"]
    present = transcript.members(sharers, len(frozen.members))
    identities = {frozen.members[i].site_id: frozen.members[i].identity for i in present}
    return _Expected(contexts.context(ctx0, frozen.root, frozen.nonce), sharers, identities)


def split_upload(upload: bytes) -> tuple[bytes, bytes]:
    """(digest, signature) of an upload as a step is closed over it; raises MalformedStep."""
    if len(upload) != DIGEST_BYTES + SIGNATURE_BYTES:
        raise MalformedStep("an upload is the digest of its body and the site's signature")
    return upload[:DIGEST_BYTES], upload[DIGEST_BYTES:]
