"""How the server closes each of the six steps, over the messages that it has: state in, state and answers out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import msgpack

from undersong.shared.ids import SiteId
from undersong.shared.merkle import proofs as merkle
from undersong.shared.secagg import transcript
from undersong.shared.secagg.engine import Asks, Closed, Fault, ServerRound
from undersong.shared.secagg.facts import WITNESS
from undersong.shared.secagg.pairwise import messages
from undersong.shared.secagg.pairwise.complaints import (
    Complaint,
    check_complaints,
    disputed,
    pack_complaints,
    refused_dealers,
    tolerated,
    unpack_complaints,
)
from undersong.shared.secagg.pairwise.messages import (
    SIGNATURE_BYTES,
    Advertisement,
    MalformedStep,
    OpeningShares,
    Survivors,
)
from undersong.shared.secagg.pairwise.roster import (
    Member,
    Roster,
    RoundAborted,
    advertisement_statement,
    refuse_low_order,
    survivors_statement,
    verify,
)
from undersong.shared.secagg.pairwise.server import DEALER_AT_FAULT, DealerAtFault, NotEnoughShares, ServerState
from undersong.shared.secagg.pairwise.survivors import UnsafeSurvivors
from undersong.shared.secagg.pairwise.terms import terms
from undersong.shared.secagg.pairwise.uploads import split_upload
from undersong.shared.secagg.pairwise.witness import SurvivorsAsk

_NONCE_BYTES: Final = 32


class StepsState:
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
        """As bytes."""
        return bytes(msgpack.packb({name: getattr(self, name) for name in self._FIELDS}, use_bin_type=True))

    @classmethod
    def unpack(cls, data: bytes) -> "StepsState":
        """Return the inverse of `pack`."""
        return cls(msgpack.unpackb(data, raw=False, strict_map_key=False))

    def server(self, server_round: ServerRound) -> ServerState:
        """Return the round over the frozen roster."""
        return ServerState(terms(server_round.manifest, b""), Roster.unpack(self.roster))


def close_advertise(
    server_round: ServerRound, state: StepsState, said: Mapping[SiteId, bytes], reply: bytes | None
) -> Closed:
    """Freeze the roster of those who advertised keys, with the witness's nonce and signature."""
    members = _advertised(server_round, said)
    if len(members) < max(3, server_round.manifest.min_cohort):
        raise NotEnoughShares(
            f"{len(members)} sites advertised keys, {max(3, server_round.manifest.min_cohort)} are needed"
        )
    bare = Roster(members, bytes(32), bytes(64))
    if reply is None:
        ask = msgpack.packb({"what": "roster", "roster": bare.pack()})
        return Closed(server_round.secret, asks=Asks.one(WITNESS, ask, _nonce_and_signature))
    nonce, signature = _nonce_and_signature(reply)
    frozen = replace(bare, nonce=nonce, signature=signature)
    state.roster = frozen.pack()
    return Closed(state.pack(), {SiteId(member.site_id): state.roster for member in members})


def _nonce_and_signature(reply: bytes) -> tuple[bytes, bytes]:
    nonce, signature = messages.unpack_pair(reply)
    if len(nonce) != _NONCE_BYTES or len(signature) != SIGNATURE_BYTES:
        raise MalformedStep("the witness answers a roster with a nonce and a signature")
    return nonce, signature


def _check_signature_form(reply: bytes) -> None:
    if len(reply) != SIGNATURE_BYTES:
        raise MalformedStep(f"the witness answers survivors with a signature of {SIGNATURE_BYTES} bytes")


def _advertised(server_round: ServerRound, said: Mapping[SiteId, bytes]) -> tuple[Member, ...]:
    """Return those whose advertisement is well formed, signed and usable; one bad key must not cost everybody the
    round.
    """
    ctx0, members = terms(server_round.manifest, b"").ctx0, []
    for site in sorted(said):
        try:
            a = Advertisement.unpack(said[site])
            verify(server_round.site_keys[site], a.signature, advertisement_statement(ctx0, site, a.c, a.s, a.b), site)
            refuse_low_order(a.c, a.s)
        except (MalformedStep, RoundAborted):
            continue  # counts as no answer
        members.append(Member(site, server_round.site_keys[site], a))
    return tuple(members)


def close_share(server_round: ServerRound, state: StepsState, said: Mapping[SiteId, bytes]) -> Closed:
    """Route envelopes, each with its dealer's commitments; `sharers` is who shared until the step after."""
    server = state.server(server_round)
    envelopes, dealings = {}, {}
    for site, data in said.items():
        position = server.roster.position(site)
        try:
            dealt, promised = messages.unpack_pair(data)
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


def close_check(server_round: ServerRound, state: StepsState, said: Mapping[SiteId, bytes]) -> Closed:
    """Freeze U2: who shared and checked, without the dealers about whom too many complain."""
    server = state.server(server_round)
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
    server: ServerState, said: Mapping[SiteId, bytes], shared: frozenset[int]
) -> dict[int, tuple[Complaint, ...]]:
    """Return what each site complains about, as far as it signed that; what is malformed counts as no answer."""
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


def close_upload(
    server_round: ServerRound, state: StepsState, uploads: Mapping[SiteId, bytes], reply: bytes | None
) -> Closed:
    """Freeze U3, the survivors, with the witness's signature; each gets the inclusion proof of its own body."""
    server = state.server(server_round)
    signed = {server.roster.position(site): upload for site, upload in uploads.items()}
    by_position = {i: split_upload(upload)[0] for i, upload in signed.items()}
    alive = frozenset(by_position)
    _openable(server, transcript.members(state.sharers, server.n), alive)
    members, root = transcript.bitmap(alive, server.n), transcript.body_root(by_position)
    if reply is None:
        ask = SurvivorsAsk(members, root, state.sharers, tuple(signed[i] for i in sorted(signed)), state.complaints)
        return Closed(server_round.secret, asks=Asks.one(WITNESS, ask.pack(), _check_signature_form))
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


def close_commit(server_round: ServerRound, state: StepsState, said: Mapping[SiteId, bytes]) -> Closed:
    """Collect the survivors' signatures over their set; in quorum mode enough of them are needed."""
    server = state.server(server_round)
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


def close_unmask(server_round: ServerRound, state: StepsState, said: Mapping[SiteId, bytes]) -> Closed:
    """Recover the masks of the sum from the shares, and name the senders of wrong ones."""
    server = state.server(server_round)
    openings = {}
    for site, message in said.items():
        try:
            openings[server.roster.position(site)] = OpeningShares.unpack(message)
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


def _openable(server: ServerState, sharers: frozenset[int], survivors: frozenset[int]) -> None:
    """Raise NotEnoughShares where no witness would sign these survivors and no site open their sum."""
    try:
        server.frame.check_survivors(sharers, survivors, server.terms.min_cohort)
    except UnsafeSurvivors as error:
        raise NotEnoughShares(str(error)) from error
