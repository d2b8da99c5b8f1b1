"""The aggregator's side of one secure-aggregation round: it routes envelopes and opens the sum, nothing else."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from undersong.shared.ids import SiteId
from undersong.shared.secagg import transcript
from undersong.shared.secagg.engine import Fault, RoundSpoiled
from undersong.shared.secagg.pairwise import messages
from undersong.shared.secagg.pairwise.client import pair_seed
from undersong.shared.secagg.pairwise.graph import planned
from undersong.shared.secagg.pairwise.messages import Delivery, OpeningShares
from undersong.shared.secagg.pairwise.opening import COMMITMENT_BYTES, Check, Opener
from undersong.shared.secagg.pairwise.roster import Frame, Roster, Terms, holders
from undersong.shared.secagg.pairwise.shares import SHARE_BYTES

WRONG_SHARE = "wrong-share"
DEALER_AT_FAULT = "dealer-at-fault"


class NotEnoughShares(RoundSpoiled):
    """Too few clients answered, so the sum of this round cannot be opened."""


class DealerAtFault(NotEnoughShares):
    """A client dealt shares that do not open its secrets, so the sum of this round cannot be opened."""


@dataclass(frozen=True, slots=True)
class Correction:
    """One mask to take out of the sum: G(seed), added (sign > 0) or subtracted."""

    seed: bytes
    sign: int


@dataclass(frozen=True, slots=True)
class Unmasking:
    """The corrections; `blamed`: positions of clients that sent a wrong share; `dealers`: of those that dealt one."""

    corrections: tuple[Correction, ...]
    blamed: frozenset[int]
    dealers: frozenset[int] = frozenset()


class ServerState:
    """One attempt at one round, after the roster is frozen."""

    def __init__(self, terms: Terms, roster: Roster) -> None:
        self.terms = terms
        self.frame = frame = Frame.of(roster, terms)
        self.roster, self.ctx, self.topology, self.around = roster, frame.ctx, frame.topology, frame.around
        self.n = len(roster.members)

    def check_envelopes(self, position: int, data: bytes, dealing: bytes | None = None) -> None:
        """Refuse envelopes and commitments of the wrong size; their content is for their readers."""
        messages.slices(data, messages.ENVELOPE_BYTES, len(self.around[position]))
        if dealing is not None:
            messages.slices(dealing, 2 * COMMITMENT_BYTES, len(self.around[position]))

    def reachable(self, sharers: frozenset[int], lacking: Mapping[int, frozenset[int]] | None = None) -> frozenset[int]:
        """U2: the largest set of sharers in which each has at least t holders (itself counted).

        lacking: for each client, the dealers whose shares it does not hold.
        """
        without = {i: {holder for holder, dealers in (lacking or {}).items() if i in dealers} for i in sharers}
        while True:
            kept = frozenset(
                i
                for i in sharers
                if 1 + len(sharers.intersection(self.around[i]) - without[i]) >= self.topology.threshold
            )
            if kept == sharers:
                return kept
            sharers = kept

    def deliver(self, position: int, envelopes: Mapping[int, bytes], sharers: frozenset[int]) -> Delivery:
        """R2: the envelopes to one client, in roster order."""
        parts = []
        for j in self.around[position]:
            if j in sharers:
                index = self.around[j].index(position)
                start = index * messages.ENVELOPE_BYTES
                parts.append(envelopes[j][start : start + messages.ENVELOPE_BYTES])
        return Delivery(transcript.bitmap(sharers, self.n), b"".join(parts))

    def promised(self, position: int, dealings: Mapping[int, bytes], sharers: frozenset[int]) -> bytes:
        """R2: what the dealers of one client's envelopes committed to, in the order of the envelopes."""
        parts = []
        for j in self.around[position]:
            if j in sharers:
                start = self.around[j].index(position) * 2 * COMMITMENT_BYTES
                parts.append(dealings[j][start : start + 2 * COMMITMENT_BYTES])
        return b"".join(parts)

    def unmask(
        self,
        openings: Mapping[int, OpeningShares],
        sharers: frozenset[int],
        survivors: frozenset[int],
        dealings: Mapping[int, bytes] | None = None,
        lacking: Mapping[int, frozenset[int]] | None = None,
    ) -> Unmasking:
        """R4: what must be taken out of the masked sum over `survivors`.

        dealings: what each dealer committed to, as it came with its envelopes. lacking: for each responder, the
        dealers about which it complained, whose shares it does not have.
        Raises DealerAtFault where a client dealt shares that open nothing, NotEnoughShares where some client's secret
        cannot be opened from the answers; both name the clients that are to blame.
        """
        b_shares, s_shares = self._sorted_shares(openings, sharers, survivors, lacking or {})
        opener = self._opener(dealings or {})
        corrections: list[Correction] = []
        for j in sorted(survivors):
            places = holders(j, self.around[j])
            secret = opener.open("b", j, places, b_shares.get(j, {}), self._is_b(j))
            if secret is not None:
                corrections.append(Correction(secret, -1))
        for j in sorted(sharers - survivors):
            if not survivors.intersection(self.around[j]):
                continue
            places = holders(j, self.around[j])
            secret = opener.open("s", j, places, s_shares.get(j, {}), self._is_s(j))
            if secret is not None:
                corrections.extend(self._pair_corrections(j, secret, survivors))
        self._check_opened(opener)
        return Unmasking(tuple(corrections), frozenset(opener.senders), frozenset(opener.dealers))

    def faults(self, senders: Iterable[int], dealers: Iterable[int]) -> tuple[Fault, ...]:
        """Return who sent and who dealt wrong shares, as the services record it."""
        sent, dealt = "it sent other shares than it was dealt", "it dealt shares that do not belong to its secrets"
        named = ((DEALER_AT_FAULT, dealers, dealt), (WRONG_SHARE, senders, sent))
        return tuple(
            Fault(SiteId(self.roster.members[i].site_id), code, why) for code, who, why in named for i in sorted(who)
        )

    def _check_opened(self, opener: Opener) -> None:
        faults = self.faults(opener.senders, opener.dealers)
        if opener.lost:
            names = ", ".join(self.roster.members[j].site_id for j in sorted(opener.lost))
            raise DealerAtFault(f"the shares that {names} dealt do not belong together", faults)
        if opener.unopened:
            j, found = min(opener.unopened.items())
            name, threshold = self.roster.members[j].site_id, self.topology.threshold
            if found < threshold:
                raise NotEnoughShares(f"{found} of {threshold} shares for {name} came", faults)
            raise NotEnoughShares(f"too many of the {found} shares for {name} are wrong", faults)

    def _opener(self, dealings: Mapping[int, bytes]) -> Opener:
        places = [{holder: place for place, holder in enumerate(around)} for around in self.around]

        def committed(kind: str, dealer: int, holder: int) -> bytes | None:
            if dealer not in dealings:
                return None
            start = (2 * places[dealer][holder] + (kind == "s")) * COMMITMENT_BYTES
            return dealings[dealer][start : start + COMMITMENT_BYTES]

        tolerated = planned(self.terms.corrupt, self.n)
        return Opener(self.ctx, self.topology.threshold, tolerated, committed)

    def _pair_corrections(self, fallen: int, secret: bytes, survivors: frozenset[int]) -> Iterator[Correction]:
        key = X25519PrivateKey.from_private_bytes(secret)
        for i in self.around[fallen]:
            if i in survivors:
                public = self.roster.members[i].advertisement.s
                seed = pair_seed(key, public, self.ctx, i, fallen)
                yield Correction(seed, -1 if fallen > i else 1)  # i had added it with sgn(fallen - i)

    def _sorted_shares(
        self,
        openings: Mapping[int, OpeningShares],
        sharers: frozenset[int],
        survivors: frozenset[int],
        lacking: Mapping[int, frozenset[int]],
    ) -> tuple[dict[int, dict[int, bytes]], dict[int, dict[int, bytes]]]:
        """Shares of b and of s: client to {responder: share}. Answers of the wrong size count for nothing."""
        b_shares: dict[int, dict[int, bytes]] = {}
        s_shares: dict[int, dict[int, bytes]] = {}
        for responder, opening in openings.items():
            held = [j for j in holders(responder, self.around[responder]) if j in sharers]
            for found, wanted, data in (
                (b_shares, [j for j in held if j in survivors], opening.b),
                (s_shares, [j for j in held if j not in survivors], opening.s),
            ):
                if len(data) != SHARE_BYTES * len(wanted):
                    continue
                for j, share in zip(wanted, messages.slices(data, SHARE_BYTES, len(wanted)), strict=True):
                    if j not in lacking.get(responder, frozenset()):
                        found.setdefault(j, {})[responder] = share
        return b_shares, s_shares

    def _is_b(self, j: int) -> Check:
        expected = self.roster.members[j].advertisement.b
        return lambda secret: transcript.tagged_hash("b", self.terms.ctx0, secret) == expected

    def _is_s(self, j: int) -> Check:
        expected = self.roster.members[j].advertisement.s
        return lambda secret: X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw() == expected
