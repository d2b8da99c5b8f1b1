"""The aggregator's side of one secure-aggregation round: it routes envelopes and opens the sum, nothing else."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.errors import Unavailable
from shared.secagg.pairwise import messages, transcript
from shared.secagg.pairwise.client import pair_seed
from shared.secagg.pairwise.messages import Delivery, Opening
from shared.secagg.pairwise.roster import Frame, Roster, Terms, holders
from shared.secagg.pairwise.shares import SHARE_BYTES, BadShares, join

MAX_SUBSETS = 4096

Check = Callable[[bytes], bool]


class NotEnoughShares(Unavailable):
    """Too few clients answered, so the sum of this round cannot be opened."""


@dataclass(frozen=True, slots=True)
class Correction:
    """One mask to take out of the sum: G(seed), added (sign > 0) or subtracted."""

    seed: bytes
    sign: int


@dataclass(frozen=True, slots=True)
class Unmasking:
    """The corrections, and the positions of clients whose shares did not belong to their secret."""

    corrections: tuple[Correction, ...]
    blamed: frozenset[int]


class ServerRound:
    """One attempt at one round, after the roster is frozen."""

    def __init__(self, terms: Terms, roster: Roster) -> None:
        self.terms = terms
        frame = Frame.of(roster, terms)
        self.roster, self.ctx, self.topology, self.around = roster, frame.ctx, frame.topology, frame.around
        self.n = len(roster.members)

    def check_envelopes(self, position: int, data: bytes) -> None:
        """Refuse envelopes of the wrong size; their content is for their readers."""
        messages.slices(data, messages.ENVELOPE_BYTES, len(self.around[position]))

    def reachable(self, sharers: frozenset[int]) -> frozenset[int]:
        """U2: the largest set of sharers in which each has at least t holders (itself counted)."""
        while True:
            kept = frozenset(
                i for i in sharers if 1 + len(sharers.intersection(self.around[i])) >= self.topology.threshold
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

    def unmask(self, openings: Mapping[int, Opening], sharers: frozenset[int], survivors: frozenset[int]) -> Unmasking:
        """R4: what must be taken out of the masked sum over `survivors`.

        Raises NotEnoughShares where some client's secret cannot be opened from the answers.
        """
        b_shares, s_shares = self._sorted_shares(openings, sharers, survivors)
        corrections: list[Correction] = []
        blamed: set[int] = set()
        for j in sorted(survivors):
            secret = self._recover(j, b_shares.get(j, {}), self._is_b(j), blamed)
            corrections.append(Correction(secret, -1))
        for j in sorted(sharers - survivors):
            if not survivors.intersection(self.around[j]):
                continue
            secret = self._recover(j, s_shares.get(j, {}), self._is_s(j), blamed)
            corrections.extend(self._pair_corrections(j, secret, survivors))
        return Unmasking(tuple(corrections), frozenset(blamed))

    def _pair_corrections(self, fallen: int, secret: bytes, survivors: frozenset[int]) -> Iterator[Correction]:
        key = X25519PrivateKey.from_private_bytes(secret)
        for i in self.around[fallen]:
            if i in survivors:
                public = self.roster.members[i].advertisement.s
                seed = pair_seed(key, public, self.ctx, i, fallen)
                yield Correction(seed, -1 if fallen > i else 1)  # i had added it with sgn(fallen - i)

    def _sorted_shares(
        self, openings: Mapping[int, Opening], sharers: frozenset[int], survivors: frozenset[int]
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
                    found.setdefault(j, {})[responder] = share
        return b_shares, s_shares

    def _is_b(self, j: int) -> Check:
        expected = self.roster.members[j].advertisement.b
        return lambda secret: transcript.tagged_hash("b", self.terms.ctx0, secret) == expected

    def _is_s(self, j: int) -> Check:
        expected = self.roster.members[j].advertisement.s
        return lambda secret: X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw() == expected

    def _recover(self, j: int, shares: Mapping[int, bytes], check: Check, blamed: set[int]) -> bytes:
        """The secret of client j; wrong shares are found out by its commitment and their senders blamed."""
        threshold = self.topology.threshold
        places = holders(j, self.around[j])
        if len(shares) < threshold:
            site = self.roster.members[j].site_id
            raise NotEnoughShares(f"{len(shares)} of {threshold} shares for {site} came")
        trusted = sorted(shares, key=lambda responder: (responder in blamed, responder))
        for attempt, subset in enumerate(itertools.islice(itertools.combinations(trusted, threshold), MAX_SUBSETS)):
            points = {places.index(responder) + 1: shares[responder] for responder in subset}
            try:
                secret = join(points, threshold)
            except BadShares:
                continue
            if check(secret):
                if attempt:  # a wrong share was in the way; otherwise nobody needs to be named
                    blamed |= self._liars(subset, shares, places, secret)
                return secret
        raise NotEnoughShares(f"no {threshold} of the shares for {self.roster.members[j].site_id} belong together")

    def _liars(
        self, good: tuple[int, ...], shares: Mapping[int, bytes], places: tuple[int, ...], secret: bytes
    ) -> set[int]:
        """Responders whose share is not on the polynomial: swap each in for one good share and compare."""
        others = [responder for responder in shares if responder not in good]
        liars = set()
        for responder in others:
            subset = (*good[1:], responder)
            try:
                found = join({places.index(r) + 1: shares[r] for r in subset}, len(good))
            except BadShares:
                found = b""
            if found != secret:
                liars.add(responder)
        return liars
