"""Who shares with whom: the complete graph to 128 clients, a random Harary graph above.

Source: Bell et al., Secure Single-Server Aggregation with (Poly)Logarithmic Overhead (CCS 2020), section 3.
Neighbours follow from ctx alone, so neither the aggregator nor a client chooses them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from shared.secagg.pairwise.transcript import tagged_hash

COMPLETE_UP_TO = 128


class UnsafeTopology(ValueError):
    """No degree and threshold meet the bounds for this cohort."""


@dataclass(frozen=True, slots=True)
class Topology:
    """n clients, each with `degree` neighbours, any `threshold` of which open its secrets."""

    n: int
    degree: int
    threshold: int

    @property
    def complete(self) -> bool:
        """Whether everyone is everyone's neighbour."""
        return self.degree == self.n - 1


def plan(n: int, corrupt: float, dropout: float, *, trusted_witness: bool) -> Topology:
    """The smallest sound topology for a cohort.

    corrupt and dropout are the planned shares of clients (gamma, delta). A client holds a share of its own secrets
    too, so on the complete graph n shares lie with n holders.
    """
    if n < 3:
        raise UnsafeTopology("fewer than three clients cannot hide in each other's sum")
    if n <= COMPLETE_UP_TO:
        return _complete(n, corrupt, dropout, trusted_witness)
    return _harary(n, corrupt, dropout)


def _complete(n: int, corrupt: float, dropout: float, trusted_witness: bool) -> Topology:
    """t = floor((n+T)/2) + 1 against a split view; max(T+1, floor(n/2)+1) where the witness is trusted."""
    colluding = min(math.floor(corrupt * n), n - 2)
    threshold = max(colluding + 1, n // 2 + 1) if trusted_witness else (n + colluding) // 2 + 1
    if n - threshold < math.floor(dropout * n):
        raise UnsafeTopology(f"with {n} clients and threshold {threshold}, a drop-out of {dropout:.0%} cannot be met")
    return Topology(n, n - 1, threshold)


@lru_cache(maxsize=64)
def _harary(n: int, corrupt: float, dropout: float) -> Topology:
    bad, kept, isolating = math.floor(corrupt * n), math.ceil((1 - dropout) * n), math.floor((corrupt + dropout) * n)
    for degree in range(4, n, 2):
        if n * _probability(n - 1, isolating, degree, range(degree, degree + 1)) > 2.0**-40:
            continue
        for threshold in range(degree // 2 + 1, degree):
            if n * _probability(n - 1, kept, degree, range(threshold)) > 2.0**-30:
                break
            if n * _probability(n - 1, bad, degree, range(threshold, degree + 1)) <= 2.0**-40:
                return Topology(n, degree, threshold)
    raise UnsafeTopology(f"no degree below {n} meets the bounds at {corrupt:.0%} corrupt and {dropout:.0%} dropped")


def _probability(population: int, marked: int, drawn: int, values: range) -> float:
    """P[X in values] for X hypergeometric(population, marked, drawn)."""
    possible = range(max(values.start, drawn - (population - marked)), min(values.stop, drawn + 1, marked + 1))
    everything = _log_choose(population, drawn)
    return math.fsum(
        math.exp(_log_choose(marked, x) + _log_choose(population - marked, drawn - x) - everything) for x in possible
    )


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def neighbours(topology: Topology, ctx: bytes) -> list[tuple[int, ...]]:
    """For each roster position, its neighbours' positions in ascending order."""
    n = topology.n
    if topology.complete:
        return [tuple(j for j in range(n) if j != i) for i in range(n)]
    order = _permutation(n, ctx)
    place = {member: index for index, member in enumerate(order)}
    half = topology.degree // 2
    steps = [s for s in range(-half, half + 1) if s]
    return [tuple(sorted(order[(place[i] + s) % n] for s in steps)) for i in range(n)]


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
