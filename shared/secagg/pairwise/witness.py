"""What the keys service checks before it signs a roster or survivor set. Pure: signing once is the service's part."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack

from undersong.shared.errors import Forbidden
from undersong.shared.secagg import transcript
from undersong.shared.secagg.pairwise import roster
from undersong.shared.secagg.pairwise.complaints import check_left_out
from undersong.shared.secagg.pairwise.messages import SIGNATURE_BYTES, MalformedStep, unpacked
from undersong.shared.secagg.pairwise.roster import DIGEST_BYTES, Frame, Roster, RoundAborted, Terms
from undersong.shared.secagg.pairwise.survivors import UnsafeSurvivors

_SURVIVORS_ASK = frozenset({"what", "members", "root", "sharers", "uploads", "complaints"})


class WitnessRefused(Forbidden):
    """The witness does not sign this: the request breaks a rule of the round."""


@dataclass(frozen=True, slots=True)
class RosterAsk:
    """A roster to be frozen, without nonce and signature."""

    roster: Roster


@dataclass(frozen=True, slots=True)
class SurvivorsAsk:
    """A survivor set (U3) to be fixed, out of the sharers (U2), with the root over the survivors' bodies.

    uploads: for each survivor, in roster order, its body's digest and its signature over that (96 bytes).
    complaints: each complainer's signed complaints about dealers, packed, by position.
    """

    members: bytes
    root: bytes
    sharers: bytes
    uploads: tuple[bytes, ...]
    complaints: Mapping[int, bytes] = field(default_factory=dict)

    def pack(self) -> bytes:
        """Return the question as bytes; the inverse of `read_ask`."""
        asked: dict[str, object] = {"what": "survivors", "members": self.members, "root": self.root}
        asked |= {"sharers": self.sharers, "uploads": list(self.uploads)}
        if self.complaints:
            asked["complaints"] = msgpack.packb([list(each) for each in sorted(self.complaints.items())])
        return bytes(msgpack.packb(asked, use_bin_type=True))


def read_ask(data: bytes) -> RosterAsk | SurvivorsAsk:
    """Return the aggregator's question, strictly read."""
    try:
        found: Any = msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise MalformedStep("the question to the witness is not msgpack") from error
    match found:
        case {"what": "roster", "roster": bytes() as packed} if len(found) == 2:
            return RosterAsk(Roster.unpack(packed))
        case {
            "what": "survivors",
            "members": bytes() as members,
            "root": bytes() as root,
            "sharers": bytes() as sharers,
            "uploads": list() as uploads,
        } if found.keys() <= _SURVIVORS_ASK and all(_is_upload(upload) for upload in uploads):
            complaints = _complaints(found.get("complaints", b"\x90"))
            return SurvivorsAsk(members, root, sharers, tuple(uploads), complaints)
    raise MalformedStep("the witness is asked for a roster or for survivors")


def _complaints(data: Any) -> dict[int, bytes]:
    if not isinstance(data, bytes):
        raise MalformedStep("complaints are bytes")
    match unpacked(data):
        case [*items]:
            pairs = [item for item in items if _is_pair(item)]
            if len(pairs) == len(items) == len({position for position, _ in pairs}):
                return dict(pairs)
    raise MalformedStep("complaints are pairs of a position and bytes")


def _is_pair(item: Any) -> bool:
    match item:
        case [int(), bytes()]:
            return True
    return False


def _is_upload(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == DIGEST_BYTES + SIGNATURE_BYTES


def roster_statement(
    ask: RosterAsk, terms: Terms, nonce: bytes, cohort: frozenset[str], certified: Mapping[str, bytes]
) -> tuple[Roster, bytes]:
    """Return the roster with its nonce, and what to sign; raises WitnessRefused.

    certified: the identity keys of the sites whose certificates are valid now.
    """
    members = ask.roster.members
    ids = [member.site_id for member in members]
    if ids != sorted(set(ids)):
        raise WitnessRefused("the roster is not sorted or names a site twice")
    if len(ids) < max(terms.min_cohort, 3):
        raise WitnessRefused(f"{len(ids)} sites are fewer than the minimum cohort")
    if roster.nonce_commitment(nonce) != terms.nonce_commitment:
        raise WitnessRefused("the manifest does not hold this witness's commitment")
    for member in members:
        if member.site_id not in cohort:
            raise WitnessRefused(f"{member.site_id} is not in the manifest's cohort")
        if certified.get(member.site_id) != member.identity:
            raise WitnessRefused(f"{member.site_id} has no valid certificate for the key in the roster")
        said = member.advertisement
        statement = roster.advertisement_statement(terms.ctx0, member.site_id, said.c, said.s, said.b)
        try:
            roster.verify(member.identity, said.signature, statement, member.site_id)
        except RoundAborted as error:
            raise WitnessRefused(error.detail) from error
    frozen = replace(ask.roster, nonce=nonce)
    return frozen, roster.roster_statement(terms.ctx0, len(ids), frozen.root, nonce)


def survivors_statement(ask: SurvivorsAsk, terms: Terms, frozen: Roster) -> bytes:
    """Return what to sign about the survivors of a roster that this witness froze; raises WitnessRefused."""
    frame, n = Frame.of(frozen, terms), len(frozen.members)
    try:
        alive, sharers = transcript.members(ask.members, n), transcript.members(ask.sharers, n)
    except ValueError as error:
        raise WitnessRefused(str(error)) from error
    try:
        check_left_out(frame, terms.corrupt, ask.complaints, sharers)
        frame.check_survivors(sharers, alive, terms.min_cohort)
        _check_uploads(ask, frame, sorted(alive))
    except UnsafeSurvivors as error:
        raise WitnessRefused(str(error)) from error
    except RoundAborted as error:
        raise WitnessRefused(error.detail) from error
    return roster.survivors_statement(frame.ctx, terms.attempt, ask.members, ask.root)


def _check_uploads(ask: SurvivorsAsk, frame: Frame, survivors: list[int]) -> None:
    """Check that every survivor signed its body under the same sharers, and the root is over exactly these bodies."""
    if len(ask.uploads) != len(survivors):
        raise WitnessRefused(f"{len(ask.uploads)} uploads are shown for {len(survivors)} survivors")
    digests = {i: upload[:DIGEST_BYTES] for i, upload in zip(survivors, ask.uploads, strict=True)}
    for i, upload in zip(survivors, ask.uploads, strict=True):
        member, statement = frame.roster.members[i], roster.masked_statement(frame.ctx, ask.sharers, digests[i])
        roster.verify(member.identity, upload[DIGEST_BYTES:], statement, f"the update of {member.site_id}")
    if transcript.body_root(digests) != ask.root:
        raise WitnessRefused("the root is not that of the survivors' updates")
