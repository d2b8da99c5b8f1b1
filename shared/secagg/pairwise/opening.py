"""R4 at the aggregator: from the shares that came to the secrets, and whose shares were wrong.

A wrong share was either dealt wrong or sent wrong. Which of the two is told by the dealer's commitments: with its
envelopes a dealer gives a hash of every share, each holder compares it with what it received and complains where they
differ (`complaints`), so a share that differs from its commitment was changed by its sender, and one that equals its
commitment and does not belong to the secret was dealt so. Shares that are known to be changed are left out, and what
is wrong among the others is corrected (`decoding`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from undersong.shared.secagg import transcript
from undersong.shared.secagg.pairwise.shares import BadShares, well_formed

if TYPE_CHECKING:
    from undersong.shared.secagg.pairwise.decoding import DecodedSecret

COMMITMENT_BYTES = 32

Check = Callable[[bytes], bool]


def share_commitment(ctx: bytes, kind: str, dealer: int, holder: int, share: bytes) -> bytes:
    """Return the dealer's commitment to one share, a hash; `kind` is b or s. A share has 256 unknown bits."""
    positions = dealer.to_bytes(4, "little") + holder.to_bytes(4, "little")
    return transcript.tagged_hash("share", ctx, kind.encode(), positions, share)


def share_commitments(ctx: bytes, dealer: int, holder: int, shares: Sequence[bytes]) -> bytes:
    """Return the commitments to a holder's shares of b and s: 64 bytes."""
    return b"".join(
        share_commitment(ctx, kind, dealer, holder, share) for kind, share in zip("bs", shares, strict=True)
    )


@dataclass(slots=True)
class Opener:
    """Opens secrets one after the other, and remembers whose shares were wrong.

    tolerated: floor(gamma n), as many senders as are planned to be corrupt. committed: for (kind, dealer, holder) the
    dealer's commitment, None where there is none. senders: positions that sent a wrong share. dealers: positions that
    dealt one. unopened: for each secret that cannot be opened, though its dealer is not to blame, how many usable
    shares there are.
    """

    ctx: bytes
    threshold: int
    tolerated: int
    committed: Callable[[str, int, int], bytes | None]
    senders: set[int] = field(default_factory=set)
    dealers: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    unopened: dict[int, int] = field(default_factory=dict)

    def open(
        self, kind: str, dealer: int, places: Sequence[int], shares: Mapping[int, bytes], check: Check
    ) -> bytes | None:
        """Return the secret from shares by sender, None where it cannot be opened: then its dealer is in lost or
        unopened.

        places: the secret's holders, ascending, whose points are 1, 2, ... check: whether the secret is the committed
        one.
        """
        points = {place: point for point, place in enumerate(places, 1)}
        found = self._decoded(points, {s: share for s, share in shares.items() if s not in self.senders}, check)
        if found is None:
            found = self._without_changed(points, kind, dealer, shares, check)
        if found is None:
            return None
        self._judge(kind, dealer, {sender: share for sender, share in shares.items() if points[sender] in found.wrong})
        return found.secret

    def _without_changed(
        self, points: Mapping[int, int], kind: str, dealer: int, shares: Mapping[int, bytes], check: Check
    ) -> "DecodedSecret | None":
        """Open from the shares that are as they were dealt; else name the dealer, where it must be the dealer.

        A dealer commits to no share of its own: as a sender it is left out last, and is then one that sent a wrong one.
        """
        changed = {sender for sender, share in shares.items() if self._dealt(kind, dealer, sender, share) is False}
        kept = {sender: share for sender, share in shares.items() if sender not in changed}
        self.senders |= changed
        found = self._decoded(points, kept, check)
        if found is None and dealer in kept:
            found = self._decoded(points, {s: share for s, share in kept.items() if s != dealer}, check)
            if found is not None:
                self.senders.add(dealer)
        if found is None:
            self._judge_lost(kind, dealer, kept, len(changed))
        return found

    def _decoded(self, points: Mapping[int, int], shares: Mapping[int, bytes], check: Check) -> "DecodedSecret | None":
        from undersong.shared.secagg.pairwise.decoding import decode  # compiled: only where a sum is opened

        try:
            found = decode({points[sender]: share for sender, share in shares.items()}, self.threshold)
        except BadShares:
            return None
        return found if check(found.secret) else None

    def _dealt(self, kind: str, dealer: int, sender: int, share: bytes) -> bool | None:
        """Return whether its dealer dealt this share; None where that cannot be told."""
        if not well_formed(share):
            return False  # a holder of such a share complained, and is not among the senders
        committed = None if dealer == sender else self.committed(kind, dealer, sender)
        return None if committed is None else committed == share_commitment(self.ctx, kind, dealer, sender, share)

    def _judge(self, kind: str, dealer: int, wrong: Mapping[int, bytes]) -> None:
        """Name who is to blame for wrong shares of a secret that could be opened."""
        dealt = {sender: self._dealt(kind, dealer, sender, share) for sender, share in wrong.items()}
        if True in dealt.values() or (None in dealt.values() and len(wrong) > self.tolerated):
            self.dealers.add(dealer)
            self.senders |= {sender for sender, so in dealt.items() if so is False}
        else:
            self.senders |= set(dealt)

    def _judge_lost(self, kind: str, dealer: int, kept: Mapping[int, bytes], changed: int) -> None:
        """Name the dealer of a secret that cannot be opened, where it must be the dealer."""
        others = [sender for sender in kept if sender != dealer]
        proved = bool(others) and all(self._dealt(kind, dealer, sender, kept[sender]) for sender in others)
        # Without commitments: more senders than are planned to be corrupt would have to be wrong.
        proved = proved or (len(kept) - self.threshold) // 2 >= max(0, self.tolerated - changed)
        if len(kept) >= self.threshold and proved:
            self.dealers.add(dealer)
            self.lost.add(dealer)
        else:
            self.unopened[dealer] = len(kept)
