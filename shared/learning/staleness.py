"""Weights of changes that were trained from older versions: FedBuff (Nguyen et al., AISTATS 2022).

Sites scale their own change, since no server sees a single one; the server divides the sum by the weights of those
whose changes are in it, which follow from the round's manifest.
"""

import math
from collections.abc import Collection, Sequence

from undersong.shared.ids import SiteId
from undersong.shared.wire.manifest import BufferedChange


def stale_weight(staleness: int) -> float:
    """Return 1 / sqrt(1 + staleness), at most 1; `staleness` is the number of versions since the change was begun.

    >>> [stale_weight(n) for n in (0, 3)]
    [1.0, 0.5]
    """
    if staleness < 0:
        raise ValueError("no change is newer than the version that it is added to")
    return 1 / math.sqrt(1 + staleness)


def mean_weight(changes: Sequence[BufferedChange], survivors: Collection[SiteId]) -> float:
    """Return the mean weight of the survivors' changes: their plain mean, divided by it, is the weighted mean."""
    weights = [stale_weight(each.staleness) for each in changes if each.site_id in survivors]
    if not weights or len(weights) != len(survivors):
        raise ValueError("a sum over other sites than the round's")
    return math.fsum(weights) / len(weights)
