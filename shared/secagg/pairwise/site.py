"""A site's side of the engine: what it says in each step, and what it checks before it says it."""

import numpy as np

from undersong.shared.merkle import proofs as merkle
from undersong.shared.secagg import transcript
from undersong.shared.secagg.engine import ClientRound, Payload, Pieces, UpdateRefused, Verifier, header_for
from undersong.shared.secagg.pairwise import messages
from undersong.shared.secagg.pairwise.client import ClientState, Sign
from undersong.shared.secagg.pairwise.complaints import pack_complaints
from undersong.shared.secagg.pairwise.facts import ADVERTISE, CHECK, COMMIT, NAME, SHARE, UNMASK
from undersong.shared.secagg.pairwise.messages import Delivery, MalformedStep, Survivors
from undersong.shared.secagg.pairwise.roster import Roster, RoundAborted, Terms
from undersong.shared.secagg.pairwise.terms import terms
from undersong.shared.secagg.quantise import DTYPES, pack, unpack
from undersong.shared.wire.updates import write_header


class PairwiseClient:
    """One site's side; its state is `ClientState.dump`."""

    def begin(self, client_round: ClientRound, verifier: Verifier) -> bytes:  # noqa: ARG002
        """Fresh keys for this attempt. What the witness signs comes in later steps, and is checked there."""
        return ClientState.begin(_terms(client_round), client_round.site_id, client_round.entropy).dump()

    def message(self, client_round: ClientRound, state: bytes, step: str, answer: bytes | None) -> tuple[bytes, bytes]:
        """Return the message of a step other than the upload."""
        client = ClientState.load(_terms(client_round), client_round.site_id, state)
        sign = _signer(client_round)
        if step == ADVERTISE:
            said = client.advertise(sign).pack()
        elif step == SHARE:
            envelopes = client.share(Roster.unpack(_needed(answer)), sign, client_round.entropy, client_round.floors)
            said = messages.pack_list([envelopes, client.dealing])
        elif step == CHECK:
            delivery, dealt = messages.unpack_pair(_needed(answer))
            client.receive(Delivery.unpack(delivery), dealt)
            said = pack_complaints(client.complain(sign))
        elif step == COMMIT:
            survivors, path = _survivors(answer)
            _check_included(client, survivors, path, client_round)
            said = survivors.pack() + client.commit(survivors, sign)
        elif step == UNMASK:
            survivors, commitments = _commitments(answer)
            said = client.open(survivors, commitments).pack()
        else:
            raise UpdateRefused(f"engine pairwise has no step {step}")
        return client.dump(), said

    def upload(
        self, client_round: ClientRound, state: bytes, answer: bytes | None, payload: Payload
    ) -> tuple[bytes, Pieces]:
        """Return the state that knows the other clients' shares, and the masked body."""
        client = ClientState.load(_terms(client_round), client_round.site_id, state)
        client.settle(_needed(answer))
        bits = payload.modulus_bits
        vector = np.array(unpack(payload.data, bits), DTYPES[bits])
        client.mask(vector)
        header = header_for(client_round, NAME, payload, {})
        return client.dump(), iter((write_header(header), pack(vector, bits)))


def _check_included(client: ClientState, survivors: Survivors, path: list[bytes], client_round: ClientRound) -> None:
    """Check that the client's own body is under the root that the witness signed; raises RoundAborted."""
    if client.frame is None or client_round.body is None:
        raise RoundAborted("this client has not submitted an update")
    n, me = len(client.frame.roster.members), client.frame.roster.position(client_round.site_id)
    alive = sorted(transcript.members(survivors.members, n))
    if me not in alive:
        raise RoundAborted("this client's update is said to be missing")
    try:
        merkle.verify_inclusion(
            transcript.body_leaf(me, client_round.body), alive.index(me), len(alive), path, survivors.root
        )
    except merkle.MerkleProofInvalid as error:
        raise RoundAborted("another update is in this client's place") from error


def _survivors(answer: bytes | None) -> tuple[Survivors, list[bytes]]:
    first, *path = messages.unpack_list(_needed(answer)) or [b""]
    return Survivors.unpack(first), path


def _commitments(answer: bytes | None) -> tuple[Survivors, dict[int, bytes]]:
    first, *rest = messages.unpack_list(_needed(answer)) or [b""]
    if any(len(item) != 4 + messages.SIGNATURE_BYTES for item in rest):
        raise MalformedStep("a commitment is a position and a signature")
    return Survivors.unpack(first), {int.from_bytes(item[:4], "little"): item[4:] for item in rest}


def _needed(answer: bytes | None) -> bytes:
    if answer is None:
        raise UpdateRefused("this step needs the answer to the one before")
    return answer


def _terms(client_round: ClientRound) -> Terms:
    if client_round.witness is None:
        raise UpdateRefused("pairwise needs the key of the witness")
    return terms(client_round.manifest, client_round.witness)


def _signer(client_round: ClientRound) -> Sign:
    if client_round.sign is None:
        raise UpdateRefused("pairwise needs the site's identity key")
    return client_round.sign
