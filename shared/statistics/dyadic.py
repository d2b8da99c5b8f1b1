"""Quantiles from a dyadic tree of counts.

The leaves are 2**depth equal intervals; each inner node holds the sum of its two children. A quantile is found by going
down from the root towards its rank. The way ends above a node of fewer than `least` values, so that where few values
lie the answer is a wide interval and no interval of the answer holds fewer than `least`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quantile:
    """Where a share of the values lies: within [low, high], and at `value` if they are spread evenly there."""

    probability: float
    low: float
    high: float
    value: float


def tree_of(leaves: Floats) -> list[Floats]:
    """Return the levels of the tree, the root first; `leaves` is float64[2**depth]."""
    levels = [leaves]
    while levels[0].size > 1:
        levels.insert(0, levels[0].reshape(-1, 2).sum(axis=1))
    return levels


def quantile(
    levels: list[Floats],
    low: float,
    high: float,
    probability: float,
    least: int,
    below: float = 0.0,
    above: float = 0.0,
) -> Quantile | None:
    """Return the interval of the ceil(n p)-th smallest of n values; nothing where it lies outside [low, high]."""
    total = below + float(levels[0][0]) + above
    rank = max(1.0, np.ceil(round(total * probability, 9))) - below
    if not 1 <= rank <= levels[0][0]:
        return None
    place, before = 0, 0.0
    level = 0
    while level + 1 < len(levels):
        left = float(levels[level + 1][2 * place])
        right = rank > before + left
        child = 2 * place + int(right)
        if levels[level + 1][child] < least:
            break
        before += left if right else 0.0
        place, level = child, level + 1
    width = (high - low) / 2**level
    start = low + place * width
    return Quantile(
        probability, start, start + width, start + width * float((rank - before - 0.5) / levels[level][place])
    )
