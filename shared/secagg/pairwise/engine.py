"""The pairwise engine at the seam (`shared.secagg.engine`): six steps, and a witness asked twice.

advertise -> (witness signs the roster) -> share -> check -> upload -> (witness signs the survivors) -> commit ->
unmask. The first three run while the site trains. The manifest's `engine_params` fix what `terms` reads.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import msgpack
import numpy as np

from shared.ids import SiteId
from shared.merkle import proofs as merkle
from shared.secagg import transcript
from shared.secagg.engine import (
    NO_ASKS,
    Asks,
    Closed,
    Desk,
    Engine,
    Entropy,
    Evidence,
    Fault,
    Opened,
    Payload,
    Pieces,
    Replies,
    Seat,
    Source,
    UpdateRefused,
    Verifier,
    header_for,
)
from shared.secagg.facts import WITNESS
from shared.secagg.pairwise import messages
from shared.secagg.pairwise.client import ClientRound, Sign
from shared.secagg.pairwise.complaints import (
    Complaint,
    check_complaints,
    disputed,
    pack_complaints,
    refused_dealers,
    tolerated,
    unpack_complaints,
)
from shared.secagg.pairwise.facts import ADVERTISE, CHECK, COMMIT, FACTS, NAME, SHARE, UNMASK
from shared.secagg.pairwise.masks import apply_mask
from shared.secagg.pairwise.messages import Advertisement, Delivery, MalformedStep, Opening, Survivors
from shared.secagg.pairwise.roster import (
    Member,
    Roster,
    RoundAborted,
    Terms,
    advertisement_statement,
    refuse_low_order,
    survivors_statement,
    verify,
)
from shared.secagg.pairwise.server import DEALER_AT_FAULT, DealerAtFault, NotEnoughShares, ServerRound
from shared.secagg.pairwise.survivors import UnsafeSurvivors
from shared.secagg.pairwise.terms import terms as terms  # part of this module's face
from shared.secagg.pairwise.uploads import MaskSignatures, split_upload
from shared.secagg.pairwise.witness import SurvivorsAsk
from shared.secagg.quantise import DTYPES, Ring, pack, unpack
from shared.wire.manifest import RoundManifest
from shared.wire.updates import UpdateHeader, write_header

_BLOCK: Final = 24 * 8192


class PairwiseServer:
    """Routes what clients say, and learns the masks of the sum only."""

    def open(self, manifest: RoundManifest, entropy: Entropy = os.urandom) -> Opened:  # noqa: ARG002
        """Nothing to announce: the server has no key."""
        terms(manifest, b"")
        return Opened({}, _State().pack())

    def begun(self, desk: Desk, opened: Opened, replies: Replies) -> Opened:  # noqa: ARG002
        """Nobody is asked for anything at the beginning."""
        raise UpdateRefused("engine pairwise asks nobody to begin a round")

    def body_size(self, manifest: RoundManifest, header: UpdateHeader) -> int:  # noqa: ARG002
        """Masked words are as long as plain ones."""
        if header.material:
            raise UpdateRefused("a masked update has no material")
        return header.plain_size

    def unveil(self, desk: Desk, header: UpdateHeader, source: Source) -> Iterator[memoryview]:  # noqa: ARG002
        """The masked words as they came."""
        left = header.plain_size
        while left:
            part = source.take(min(_BLOCK, left))
            if len(part) != min(_BLOCK, left):
                raise UpdateRefused("the update's body ends too early")
            left -= len(part)
            yield part
        if len(source.take(1)):
            raise UpdateRefused("the update's body goes on after its last word")

    def close(self, desk: Desk, step: str, messages: Mapping[SiteId, bytes], replies: Replies | None = None) -> Closed:
        """End one of the six steps."""
        state, reply = _State.unpack(desk.secret), None if replies is None else replies[0]
        match step:
            case "advertise":
                return _close_advertise(desk, state, messages, reply)
            case "share":
                return _close_share(desk, state, messages)
            case "check":
                return _close_check(desk, state, messages)
            case "upload":
                return _close_upload(desk, state, messages, reply)
            case "commit":
                return _close_commit(desk, state, messages)
            case "unmask":
                return _close_unmask(desk, state, messages)
        raise UpdateRefused(f"engine pairwise has no step {step}")

    def sum_length(self, manifest: RoundManifest, header: UpdateHeader) -> int:  # noqa: ARG002
        """Return the length of the payload."""
        return header.length

    def sum_asks(self, desk: Desk) -> Asks:  # noqa: ARG002
        """Nobody is asked."""
        return NO_ASKS

    def reveal(self, desk: Desk, total: Ring) -> Ring:
        """Take the masks out of the sum, in place."""
        bits = _bits(desk.manifest)
        state = _State.unpack(desk.secret)
        if not state.corrections:
            raise NotEnoughShares("the survivors have not opened this round yet")
        for seed, sign in state.corrections:
            apply_mask(total, seed, sign, bits)
        if bits == 24:
            np.bitwise_and(total, 0xFFFFFF, out=total)
        return total

    def slack(self, manifest: RoundManifest, length: int) -> int:  # noqa: ARG002
        """Nothing is added to a sum."""
        return 0

    def modulus(self, manifest: RoundManifest) -> int | None:  # noqa: ARG002
        """Words of the round's encoding."""
        return None

    def evidence(self, desk: Desk) -> Evidence:
        """Roster, sharers and survivors as the witness and the sites signed them."""
        state = _State.unpack(desk.secret)
        members = Roster.unpack(state.roster).members
        signed = {SiteId(members[i].site_id): signature for i, signature in state.commitments.items()}
        complaints = {SiteId(members[i].site_id): said for i, said in state.complaints.items()}
        faults = {SiteId(site): code for site, code in state.faults.items()}
        uploads = {SiteId(members[i].site_id): signature for i, signature in state.uploads.items()}
        return Evidence(state.roster, state.sharers, state.survivors, signed, complaints, faults, uploads)


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
            delivery, dealt = _pair(_needed(answer))
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


class _State:
    """What the server keeps of a round between steps."""

    _FIELDS = (
        "roster", "dealings", "sharers", "complaints", "faults", "members", "root", "uploads", "survivors",
        "commitments", "corrections",
    )  # fmt: skip

    def __init__(self, values: Mapping[str, object] | None = None) -> None:
        held = values or {}
        self.roster: bytes = held.get("roster", b"")  # type: ignore[assignment]
        self.dealings: dict[int, bytes] = held.get("dealings", {})  # type: ignore[assignment]
        self.sharers: bytes = held.get("sharers", b"")  # type: ignore[assignment]
        self.complaints: dict[int, bytes] = held.get("complaints", {})  # type: ignore[assignment]
        self.faults: dict[str, str] = held.get("faults", {})  # type: ignore[assignment]
        self.members: bytes = held.get("members", b"")  # type: ignore[assignment]
        self.root: bytes = held.get("root", b"")  # type: ignore[assignment]
        self.uploads: dict[int, bytes] = held.get("uploads", {})  # type: ignore[assignment]
        self.survivors: bytes = held.get("survivors", b"")  # type: ignore[assignment]
        self.commitments: dict[int, bytes] = held.get("commitments", {})  # type: ignore[assignment]
        self.corrections: list[tuple[bytes, int]] = held.get("corrections", [])  # type: ignore[assignment]

    def pack(self) -> bytes:
        return bytes(msgpack.packb({name: getattr(self, name) for name in self._FIELDS}, use_bin_type=True))

    @classmethod
    def unpack(cls, data: bytes) -> "_State":
        return cls(msgpack.unpackb(data, raw=False, strict_map_key=False))

    def server(self, desk: Desk) -> ServerRound:
        return ServerRound(terms(desk.manifest, b""), Roster.unpack(self.roster))


def _close_advertise(desk: Desk, state: _State, said: Mapping[SiteId, bytes], reply: bytes | None) -> Closed:
    members = _advertised(desk, said)
    if len(members) < max(3, desk.manifest.min_cohort):
        raise NotEnoughShares(f"{len(members)} sites advertised keys, {max(3, desk.manifest.min_cohort)} are needed")
    bare = Roster(members, bytes(32), bytes(64))
    if reply is None:
        return Closed(desk.secret, asks=Asks.one(WITNESS, msgpack.packb({"what": "roster", "roster": bare.pack()})))
    nonce, signature = messages.unpack_list(reply)
    frozen = replace(bare, nonce=nonce, signature=signature)
    state.roster = frozen.pack()
    return Closed(state.pack(), {SiteId(member.site_id): state.roster for member in members})


def _advertised(desk: Desk, said: Mapping[SiteId, bytes]) -> tuple[Member, ...]:
    """Those whose advertisement is well formed, signed and usable; one bad key must not cost everybody the round."""
    ctx0, members = terms(desk.manifest, b"").ctx0, []
    for site in sorted(said):
        try:
            a = Advertisement.unpack(said[site])
            verify(desk.site_keys[site], a.signature, advertisement_statement(ctx0, site, a.c, a.s, a.b), site)
            refuse_low_order(a.c, a.s)
        except (MalformedStep, RoundAborted):
            continue  # counts as no answer
        members.append(Member(site, desk.site_keys[site], a))
    return tuple(members)


def _close_share(desk: Desk, state: _State, said: Mapping[SiteId, bytes]) -> Closed:
    """Route envelopes, each with its dealer's commitments; `sharers` is who shared until the step after."""
    server = state.server(desk)
    envelopes, dealings = {}, {}
    for site, data in said.items():
        position = server.roster.position(site)
        try:
            dealt, promised = _pair(data)
            server.check_envelopes(position, dealt, promised)
        except MalformedStep:
            continue  # counts as no answer
        envelopes[position], dealings[position] = dealt, promised
    sharers = server.reachable(frozenset(envelopes))
    _openable(server, sharers, sharers)
    state.sharers = transcript.bitmap(sharers, server.n)
    state.dealings = {i: dealings[i] for i in sharers}
    ids = server.roster.members
    answers = {
        SiteId(ids[i].site_id): messages.pack_list(
            [server.deliver(i, envelopes, sharers).pack(), server.promised(i, dealings, sharers)]
        )
        for i in sharers
    }
    return Closed(state.pack(), answers)


def _close_check(desk: Desk, state: _State, said: Mapping[SiteId, bytes]) -> Closed:
    """Freeze U2: who shared and checked, without the dealers about whom too many complain."""
    server = state.server(desk)
    shared = transcript.members(state.sharers, server.n)
    complaints = _complaints(server, said, shared)
    limit = tolerated(server.n, server.terms.corrupt)
    refused = refused_dealers(complaints, limit)
    faults = tuple(
        Fault(
            SiteId(server.roster.members[i].site_id),
            DEALER_AT_FAULT,
            f"{number} sites could not use the shares that it dealt, more than the {limit} that may be wrong",
        )
        for i, number in refused.items()
    )
    lacking = {i: frozenset(each.dealer for each in items) for i, items in complaints.items()}
    sharers = server.reachable(frozenset(complaints) - refused.keys(), lacking)
    state.complaints = {i: pack_complaints(items) for i, items in complaints.items() if items}
    state.faults = {fault.site_id: fault.code for fault in faults}
    ids = [SiteId(member.site_id) for member in server.roster.members]
    disputes = {ids[i]: [ids[each.dealer] for each in items] for i, items in complaints.items() if items}
    faults += disputed(disputes, refused=state.faults.keys(), limit=limit)
    try:
        _openable(server, sharers, sharers)
    except NotEnoughShares as error:
        detail = f"after the shares were checked, {error.detail}"
        if disputes:
            dealers = ", ".join(sorted({dealer for about in disputes.values() for dealer in about}))
            detail += f"; {', '.join(sorted(disputes))} cannot use shares of {dealers}"
        kind = DealerAtFault if refused else NotEnoughShares
        raise kind(detail, faults) from error
    state.sharers = transcript.bitmap(sharers, server.n)
    answers = {SiteId(server.roster.members[i].site_id): state.sharers for i in sharers}
    return Closed(state.pack(), answers, faults=faults, complaints=disputes)


def _complaints(
    server: ServerRound, said: Mapping[SiteId, bytes], shared: frozenset[int]
) -> dict[int, tuple[Complaint, ...]]:
    """What each site complains about, as far as it signed that; what is malformed counts as no answer."""
    found = {}
    for site, message in said.items():
        position = server.roster.position(site)
        try:
            complaints = unpack_complaints(message)
            check_complaints(server.frame, position, complaints)
        except (MalformedStep, RoundAborted):
            continue
        if position in shared and shared.issuperset(each.dealer for each in complaints):
            found[position] = complaints
    return found


def _close_upload(desk: Desk, state: _State, uploads: Mapping[SiteId, bytes], reply: bytes | None) -> Closed:
    server = state.server(desk)
    signed = {server.roster.position(site): upload for site, upload in uploads.items()}
    by_position = {i: split_upload(upload)[0] for i, upload in signed.items()}
    alive = frozenset(by_position)
    _openable(server, transcript.members(state.sharers, server.n), alive)
    members, root = transcript.bitmap(alive, server.n), transcript.body_root(by_position)
    if reply is None:
        ask = SurvivorsAsk(members, root, state.sharers, tuple(signed[i] for i in sorted(signed)), state.complaints)
        return Closed(desk.secret, asks=Asks.one(WITNESS, ask.pack()))
    state.members, state.root = members, root
    state.uploads = {i: split_upload(upload)[1] for i, upload in signed.items()}
    survivors = Survivors(members, root, reply)
    state.survivors = survivors.pack()
    order = sorted(alive)
    leaves = merkle.stored([transcript.body_leaf(i, by_position[i]) for i in order])
    answers = {
        SiteId(server.roster.members[i].site_id): messages.pack_list(
            [state.survivors, *merkle.inclusion_proof(place, len(order), leaves)]
        )
        for place, i in enumerate(order)
    }
    return Closed(state.pack(), answers)


def _close_commit(desk: Desk, state: _State, said: Mapping[SiteId, bytes]) -> Closed:
    server = state.server(desk)
    survivors = Survivors.unpack(state.survivors)
    statement = survivors_statement(server.ctx, server.terms.attempt, survivors.members, survivors.root)
    for site in sorted(said):
        position, message = server.roster.position(site), said[site]
        signature = message[-messages.SIGNATURE_BYTES :]
        try:
            verify(server.roster.members[position].identity, signature, statement, site)
        except RoundAborted:
            continue  # counts as no answer
        if message[: -messages.SIGNATURE_BYTES] == state.survivors:
            state.commitments[position] = signature
    if server.terms.quorum and len(state.commitments) < server.topology.quorum:
        raise NotEnoughShares(f"{len(state.commitments)} sites committed, {server.topology.quorum} are needed")
    signatures = [i.to_bytes(4, "little") + signature for i, signature in sorted(state.commitments.items())]
    answer = messages.pack_list([state.survivors, *signatures])
    return Closed(state.pack(), {SiteId(server.roster.members[i].site_id): answer for i in state.commitments})


def _close_unmask(desk: Desk, state: _State, said: Mapping[SiteId, bytes]) -> Closed:
    server = state.server(desk)
    openings = {}
    for site, message in said.items():
        try:
            openings[server.roster.position(site)] = Opening.unpack(message)
        except MalformedStep:
            continue  # counts as no answer; the round goes on while enough others are there
    alive = transcript.members(state.members, server.n)
    lacking = {i: frozenset(each.dealer for each in unpack_complaints(said)) for i, said in state.complaints.items()}
    sharers = transcript.members(state.sharers, server.n)
    found = server.unmask(openings, sharers, alive, state.dealings, lacking)
    state.corrections = [(item.seed, item.sign) for item in found.corrections]
    faults = server.faults(found.blamed, found.dealers)
    state.faults = {fault.site_id: fault.code for fault in reversed(faults)} | state.faults
    return Closed(state.pack(), faults=faults)


def _openable(server: ServerRound, sharers: frozenset[int], survivors: frozenset[int]) -> None:
    """Raise NotEnoughShares where no witness would sign these survivors and no site open their sum."""
    try:
        server.frame.check_survivors(sharers, survivors, server.terms.min_cohort)
    except UnsafeSurvivors as error:
        raise NotEnoughShares(str(error)) from error


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


def _pair(data: bytes) -> tuple[bytes, bytes]:
    match messages.unpack_list(data):
        case [first, second]:
            return first, second
    raise MalformedStep("two byte strings were expected")


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
