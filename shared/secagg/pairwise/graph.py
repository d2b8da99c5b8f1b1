"""Decide which clients share secrets with each other: the complete graph, or a random Harary graph on a ring.

Source: Bell et al., Secure Single-Server Aggregation with (Poly)Logarithmic Overhead (CCS 2020), section 3.
Neighbours follow from ctx alone, so neither the aggregator nor a client chooses them.
Departs: the degree also meets the window condition of `survivors`, because the aggregator names the survivors after it
knows the ring and could otherwise cut it into arcs, each with a sum of its own (decision 0018).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import overload

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from undersong.shared.secagg.transcript import tagged_hash

COMPLETE_UP_TO = 512
_DISCLOSED = 2.0**-40
"""The most that may be the probability that colluding clients learn a secret or cut the graph."""
_STUCK = 2.0**-30
"""The most that may be the probability that an honest round within its planned drop-outs cannot be opened."""


class UnsafeTopology(ValueError):
    """No degree and threshold meet the bounds for this cohort."""


@dataclass(frozen=True, slots=True)
class Topology:
    """n clients, each with `degree` neighbours, any `threshold` of which open its secrets.

    dropouts: how many clients may drop out between sharing and upload. quorum: how many survivors must sign one
    survivor set where the witness is not trusted alone. window, window_survivors: on a sparse graph every `window`
    consecutive clients of the ring must hold so many survivors; both are 0 on the complete graph.
    """

    n: int
    degree: int
    threshold: int
    dropouts: int
    quorum: int
    window: int = 0
    window_survivors: int = 0

    @property
    def complete(self) -> bool:
        """Whether each client is every other's neighbour."""
        return self.degree == self.n - 1


def planned(share: float, n: int) -> int:
    """Return how many of n clients a planned share of them is, rounded down, free of rounding errors of the product."""
    return math.floor(share * n + 1e-9)


def plan(n: int, corrupt: float, dropout: float, *, trusted_witness: bool) -> Topology:
    """Return the topology for a cohort: the complete graph up to `COMPLETE_UP_TO` clients, a sparse one above.

    corrupt and dropout are the planned shares of clients (gamma, delta). A client holds a share of its own secrets
    too, so on the complete graph n shares lie with n holders. Raises UnsafeTopology.
    """
    if n < 3:
        raise UnsafeTopology("fewer than three clients cannot hide in each other's sum")
    found = None if n <= COMPLETE_UP_TO else sparse(n, corrupt, dropout)
    if found is None:
        return _complete(n, corrupt, dropout, trusted_witness)
    if not trusted_witness and n - found.quorum < found.dropouts:
        raise UnsafeTopology(f"with {n} clients and a quorum of {found.quorum}, {found.dropouts} must not drop out")
    return found


def _complete(n: int, corrupt: float, dropout: float, trusted_witness: bool) -> Topology:
    """t = floor((n+T)/2) + 1 against a split view; max(T+1, floor(n/2)+1) where the witness is trusted."""
    colluding, dropouts = min(planned(corrupt, n), n - 2), planned(dropout, n)
    quorum = (n + colluding) // 2 + 1
    threshold = max(colluding + 1, n // 2 + 1) if trusted_witness else quorum
    if n - threshold < dropouts:
        raise UnsafeTopology(f"with {n} clients and threshold {threshold}, a drop-out of {dropout:.0%} cannot be met")
    return Topology(n, n - 1, threshold, dropouts, quorum)


@lru_cache(maxsize=64)
def sparse(n: int, corrupt: float, dropout: float) -> Topology | None:
    """Return the sparse graph of the smallest even degree that meets all conditions, or None where there is none.

    For X, Y, Z hypergeometric over the neighbours of one client and W over a window of the ring: the colluders reach
    no threshold (X), an honest round opens (Y), no client's neighbours are all colluding or gone (Z), no window is
    left to colluders, and the drop-outs of an honest round leave each window its survivors (W).
    """
    colluding, kept = planned(corrupt, n), n - planned(dropout, n)
    isolating = planned(corrupt + dropout, n)
    for degree in range(4, n - 1, 2):
        needed = _window_survivors(n, corrupt, dropout, degree // 2)
        if needed is None or n * _upper_tails(n - 1, isolating, degree)[degree] > _DISCLOSED:
            continue
        threshold = _threshold(n, colluding, kept, degree)
        if threshold is not None:
            quorum = (n + colluding) // 2 + 1
            return Topology(n, degree, threshold, n - kept, quorum, degree // 2, needed)
    return None


def _window_survivors(n: int, corrupt: float, dropout: float, window: int) -> int | None:
    """Return c + 1 for the smallest c that colluders in a window exceed with negligible probability.

    None where the planned drop-outs of an honest round would leave a window fewer survivors too often.
    """
    colluding = _upper_tails(n, planned(corrupt, n), window)
    needed = next(c for c in range(window + 1) if n * colluding[c + 1] <= _DISCLOSED) + 1
    dropped = _upper_tails(n, planned(dropout, n), window)
    return needed if n * dropped[max(0, window - needed + 1)] <= _STUCK else None


def _threshold(n: int, colluding: int, kept: int, degree: int) -> int | None:
    """Return the smallest threshold above half the degree that colluders do not reach and an honest round does."""
    theirs, gone = _upper_tails(n - 1, colluding, degree), _upper_tails(n - 1, max(0, n - 1 - kept), degree)
    for threshold in range(degree // 2 + 1, degree):
        if n * gone[degree - threshold + 1] > _STUCK:  # fewer than the threshold are still there
            return None
        if n * theirs[threshold] <= _DISCLOSED:
            return threshold
    return None


@lru_cache(maxsize=16)
def _upper_tails(population: int, marked: int, drawn: int) -> tuple[float, ...]:
    """P[X >= x] for x = 0 … drawn + 1 and X hypergeometric(population, marked, drawn)."""
    everything = _log_choose(population, drawn)
    possible = range(max(0, drawn - (population - marked)), min(drawn, marked) + 1)
    mass = [0.0] * (drawn + 2)
    for x in possible:
        mass[x] = math.exp(_log_choose(marked, x) + _log_choose(population - marked, drawn - x) - everything)
    return tuple(accumulate(reversed(mass)))[::-1]


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


class Neighbours(Sequence[tuple[int, ...]]):
    """For each roster position, its neighbours' positions in ascending order; `ring` is the order they follow from.

    Worked out when asked for: a client needs its own only, the server all.
    """

    def __init__(self, topology: Topology, ctx: bytes) -> None:
        self._topology = topology
        self.ring = tuple(range(topology.n)) if topology.complete else tuple(_permutation(topology.n, ctx))
        self._place = {member: index for index, member in enumerate(self.ring)}
        self._known: dict[int, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return self._topology.n

    @overload
    def __getitem__(self, position: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, position: slice) -> list[tuple[int, ...]]: ...
    def __getitem__(self, position: int | slice) -> tuple[int, ...] | list[tuple[int, ...]]:
        """Return the neighbours of one client, or of several."""
        n = self._topology.n
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(n))]
        if not 0 <= position < n:
            raise IndexError(position)
        if position not in self._known:
            self._known[position] = self._of(position)
        return self._known[position]

    def _of(self, position: int) -> tuple[int, ...]:
        n, half = self._topology.n, self._topology.degree // 2
        if self._topology.complete:
            return tuple(j for j in range(n) if j != position)
        place = self._place[position]
        return tuple(sorted(self.ring[(place + step) % n] for step in range(-half, half + 1) if step))


def neighbours(topology: Topology, ctx: bytes) -> Neighbours:
    """Return every client's neighbours."""
    return Neighbours(topology, ctx)


def _permutation(n: int, ctx: bytes) -> list[int]:
    """Fisher-Yates with rejection over AES-256-CTR keyed by H("graph", ctx)."""
    draws = _uniform_words(tagged_hash("graph", ctx))
    order = list(range(n))
    for i in range(n - 1, 0, -1):
        limit = 2**64 - 2**64 % (i + 1)
        word = next(draws)
        while word >= limit:
            word = next(draws)
        j = word % (i + 1)
        order[i], order[j] = order[j], order[i]
    return order


def _uniform_words(key: bytes) -> Iterator[int]:
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    while True:
        block = stream.update(bytes(4096))
        yield from (int.from_bytes(block[i : i + 8], "little") for i in range(0, len(block), 8))
