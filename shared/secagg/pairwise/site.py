"""A site's side of the engine: what it says in each step, and what it checks before it says it."""

import numpy as np

from shared.merkle import proofs as merkle
from shared.secagg import transcript
from shared.secagg.engine import Payload, Pieces, Seat, UpdateRefused, Verifier, header_for
from shared.secagg.pairwise import messages
from shared.secagg.pairwise.client import ClientRound, Sign
from shared.secagg.pairwise.complaints import pack_complaints
from shared.secagg.pairwise.facts import ADVERTISE, CHECK, COMMIT, NAME, SHARE, UNMASK
from shared.secagg.pairwise.messages import Delivery, MalformedStep, Survivors
from shared.secagg.pairwise.roster import Roster, RoundAborted, Terms
from shared.secagg.pairwise.terms import terms
from shared.secagg.quantise import DTYPES, pack, unpack
from shared.wire.updates import write_header


class PairwiseClient:
    """One site's side; its state is `ClientRound.dump`."""

    def begin(self, seat: Seat, verifier: Verifier) -> bytes:  # noqa: ARG002
        """Fresh keys for this attempt. What the witness signs comes in later steps, and is checked there."""
        return ClientRound.begin(_terms(seat), seat.site_id, seat.entropy).dump()

    def speak(self, seat: Seat, state: bytes, step: str, answer: bytes | None) -> tuple[bytes, bytes]:
        """The message of a step other than the upload."""
        client = ClientRound.load(_terms(seat), seat.site_id, state)
        sign = _signer(seat)
        if step == ADVERTISE:
            said = client.advertise(sign).pack()
        elif step == SHARE:
            envelopes = client.share(Roster.unpack(_needed(answer)), sign, seat.entropy, seat.floors)
            said = messages.pack_list([envelopes, client.dealing])
        elif step == CHECK:
            delivery, dealt = messages.unpack_pair(_needed(answer))
            client.receive(Delivery.unpack(delivery), dealt)
            said = pack_complaints(client.complain(sign))
        elif step == COMMIT:
            survivors, path = _survivors(answer)
            _check_included(client, survivors, path, seat)
            said = survivors.pack() + client.commit(survivors, sign)
        elif step == UNMASK:
            survivors, commitments = _commitments(answer)
            said = client.open(survivors, commitments).pack()
        else:
            raise UpdateRefused(f"engine pairwise has no step {step}")
        return client.dump(), said

    def upload(self, seat: Seat, state: bytes, answer: bytes | None, payload: Payload) -> tuple[bytes, Pieces]:
        """The state that knows the other clients' shares, and the masked body."""
        client = ClientRound.load(_terms(seat), seat.site_id, state)
        client.settle(_needed(answer))
        bits = payload.modulus_bits
        vector = np.array(unpack(payload.data, bits), DTYPES[bits])
        client.mask(vector)
        header = header_for(seat, NAME, payload, {})
        return client.dump(), iter((write_header(header), pack(vector, bits)))


def _check_included(client: ClientRound, survivors: Survivors, path: list[bytes], seat: Seat) -> None:
    """The client's own body stands under the root that the witness signed."""
    if client.frame is None or seat.body is None:
        raise RoundAborted("this client has not handed in an update")
    n, me = len(client.frame.roster.members), client.frame.roster.position(seat.site_id)
    alive = sorted(transcript.members(survivors.members, n))
    if me not in alive:
        raise RoundAborted("this client's update is said to be missing")
    try:
        merkle.verify_inclusion(transcript.body_leaf(me, seat.body), alive.index(me), len(alive), path, survivors.root)
    except merkle.ProofInvalid as error:
        raise RoundAborted("another update than this client's stands in its place") from error


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


def _terms(seat: Seat) -> Terms:
    if seat.witness is None:
        raise UpdateRefused("pairwise needs the key of the witness")
    return terms(seat.manifest, seat.witness)


def _signer(seat: Seat) -> Sign:
    if seat.sign is None:
        raise UpdateRefused("pairwise needs the site's identity key")
    return seat.sign
