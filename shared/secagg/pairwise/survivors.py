"""Refuse survivor sets over which more than one sum could be opened.

The aggregator names the survivors (U3) after it knows the ring and who shared (U2), so its drop-outs are chosen, not
random. On a sparse graph it could name drop-outs that cut the ring into arcs: masks between arcs cancel with the
secrets of the dropped, and each arc has a sum of its own. Two conditions prevent that:

- at most `Topology.dropouts` sharers are missing among the survivors;
- every window of half the degree on the ring holds more survivors than colluders can be in it. So it holds an honest
  one, neighbouring honest survivors are at most half the degree apart and share a mask, and the honest survivors are
  connected: the only sum without masks is that over all of them.

Client, witness, aggregator and auditor apply the same function; roster, U2 and U3 are public in the round.
"""

from undersong.shared.secagg.pairwise.graph import Neighbours, Topology


class UnsafeSurvivors(ValueError):
    """The sum over these survivors must not be opened."""


def check_survivors(
    topology: Topology, around: Neighbours, sharers: frozenset[int], survivors: frozenset[int], min_cohort: int
) -> None:
    """Raise UnsafeSurvivors unless the sum over `survivors`, out of `sharers`, may be opened; positions in the roster.

    Monotone: a set that is refused stays refused when further survivors are left out of it.
    """
    if not survivors <= sharers:
        raise UnsafeSurvivors("a survivor is not among the sharers")
    needed = max(min_cohort, topology.threshold)
    if len(survivors) < needed:
        raise UnsafeSurvivors(f"{len(survivors)} survivors are fewer than the {needed} that are needed")
    dropped = len(sharers) - len(survivors)
    if dropped > topology.dropouts:
        raise UnsafeSurvivors(f"{dropped} of {len(sharers)} sharers dropped out, at most {topology.dropouts} may")
    if not topology.complete:
        _check_windows(topology, around.ring, survivors)


def _check_windows(topology: Topology, ring: tuple[int, ...], survivors: frozenset[int]) -> None:
    window, needed = topology.window, topology.window_survivors
    alive = [member in survivors for member in ring]
    alive += alive[: window - 1]
    held = sum(alive[:window])
    for start in range(topology.n):
        if held < needed:
            raise UnsafeSurvivors(
                f"{held} of {window} neighbouring clients survived where {needed} must: "
                "the graph of masks could fall apart"
            )
        if start + window < len(alive):
            held += alive[start + window] - alive[start]
