"""R2: what a client says, signed, about shares that it was dealt and cannot use, and what follows from it.

A client that cannot open an envelope, or finds another share in it than its dealer committed to, complains and goes on:
t of k shares are enough. A dealer about whom more clients complain than are planned to be corrupt is left out of U2
before U2 is frozen, so no complaint that is made up, alone or by all corrupt clients together, blames an honest one.
Where the threshold leaves no slack (with the default third of corrupt clients, when three divides the cohort), all of
them together can still leave it too few usable shares and so keep it out of one round, without blame.
A complaint shows nothing but its three fields.
"""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from undersong.shared.ids import SiteId
from undersong.shared.secagg import transcript
from undersong.shared.secagg.engine import SHARES_DISPUTED, Fault
from undersong.shared.secagg.pairwise import roster
from undersong.shared.secagg.pairwise.graph import planned
from undersong.shared.secagg.pairwise.messages import SIGNATURE_BYTES, MalformedStep, unpacked
from undersong.shared.secagg.pairwise.roster import Frame, RoundAborted

ENVELOPE: Final = "envelope"
"""The envelope cannot be opened."""
SHARE: Final = "share"
"""What is in the envelope is not two shares."""
COMMITMENT: Final = "commitment"
"""A share is not the one that its dealer committed to."""
KINDS: Final = (ENVELOPE, SHARE, COMMITMENT)


@dataclass(frozen=True, slots=True)
class Complaint:
    """One client's complaint about the shares that `dealer` (a position) dealt to it."""

    dealer: int
    what: str
    signature: bytes


def complaint_statement(ctx: bytes, dealer: int, what: str) -> bytes:
    """Return what a client's identity key signs about a dealer in R2."""
    return transcript.tagged_hash("complaint", ctx, dealer.to_bytes(4, "little"), what.encode())


def pack_complaints(complaints: Sequence[Complaint]) -> bytes:
    """Return one client's complaints as bytes."""
    return bytes(msgpack.packb([[c.dealer, c.what, c.signature] for c in complaints], use_bin_type=True))


def unpack_complaints(data: bytes) -> tuple[Complaint, ...]:
    """Return the inverse of `pack_complaints`, strictly: in ascending order of dealers, none twice."""
    found = unpacked(data)
    if not isinstance(found, list):
        raise MalformedStep("complaints are a list")
    complaints = tuple(_complaint(item) for item in found)
    dealers = [complaint.dealer for complaint in complaints]
    if dealers != sorted(set(dealers)):
        raise MalformedStep("complaints are not sorted or name a dealer twice")
    return complaints


def _complaint(item: Any) -> Complaint:
    match item:
        case [int() as dealer, str() as what, bytes() as signature]:
            if 0 <= dealer < 2**32 and what in KINDS and len(signature) == SIGNATURE_BYTES and dealer is not True:
                return Complaint(dealer, what, signature)
    raise MalformedStep("a complaint is a position, what failed, and a signature")


def check_complaints(frame: Frame, position: int, complaints: Sequence[Complaint]) -> None:
    """Raise RoundAborted unless a client signed all of them, and about neighbours of its own."""
    member = frame.roster.members[position]
    for complaint in complaints:
        if complaint.dealer not in frame.around[position]:
            raise RoundAborted(f"{member.site_id} complains about a client that deals it nothing")
        statement = complaint_statement(frame.ctx, complaint.dealer, complaint.what)
        roster.verify(member.identity, complaint.signature, statement, f"a complaint of {member.site_id}")


def tolerated(n: int, corrupt: float) -> int:
    """Return how many complaints a dealer may have: floor(gamma n), and never none, so that no client alone removes
    one.
    """
    return max(1, planned(corrupt, n))


def refused_dealers(complaints: Mapping[int, Sequence[Complaint]], limit: int) -> dict[int, int]:
    """Return the dealers with more than `limit` complaints, each with their number."""
    count = Counter(complaint.dealer for said in complaints.values() for complaint in said)
    return {dealer: number for dealer, number in sorted(count.items()) if number > limit}


def disputed(complaints: Mapping[SiteId, Sequence[SiteId]], refused: Set[str], limit: int) -> tuple[Fault, ...]:
    """Return the dealers that stay in the round although sites complain about them, from each complainer's dealers.

    Only the two can tell which of them is wrong: the contents of an envelope are for its reader alone.
    """
    by_dealer: dict[SiteId, list[SiteId]] = {}
    for site, dealers in sorted(complaints.items()):
        for dealer in dealers:
            by_dealer.setdefault(dealer, []).append(site)
    return tuple(
        Fault(
            dealer,
            SHARES_DISPUTED,
            f"{len(sites)} of at most {limit} tolerated: {', '.join(sites)} cannot use the shares that it dealt, or "
            "say so. Which of them is wrong is not known, and no site is excluded",
        )
        for dealer, sites in sorted(by_dealer.items())
        if dealer not in refused
    )


def check_left_out(frame: Frame, corrupt: float, complaints: Mapping[int, bytes], sharers: frozenset[int]) -> None:
    """Raise RoundAborted or MalformedStep unless every complaint is signed, by a member of U2 or not, and no dealer
    with too many of them is in U2. `complaints`: each complainer's, packed."""
    n = len(frame.roster.members)
    said = {}
    for position, packed in complaints.items():
        if not 0 <= position < n:
            raise MalformedStep("a complaint of a client that is not in the roster")
        said[position] = unpack_complaints(packed)
        check_complaints(frame, position, said[position])
    kept = sharers.intersection(refused_dealers(said, tolerated(n, corrupt)))
    if kept:
        names = ", ".join(frame.roster.members[i].site_id for i in sorted(kept))
        raise RoundAborted(f"{names} dealt useless shares to too many clients, and is kept in the round")
