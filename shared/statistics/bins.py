"""Intervals of a number column that hold about as many values each, from counts by size over all sites.

`ranges` counts values in steps of an eighth of an octave. Neighbouring steps are joined until each holds `least` values
or more, so that no border is that of a few values; then the lightest are joined, or the heaviest halved, until there
are as many intervals as were asked for. Halves are at the middle: within a step nothing is known of the values, and a
border that is a little off costs balance, never correctness. Steps around zero are not halved.
"""

import heapq
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from undersong.shared.statistics import ranges

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Part:
    """An interval and how many values are in it."""

    low: float
    high: float
    count: float


def borders(counts: Floats, bins: int, least: int) -> Floats:
    """Return rising borders between at most `bins` intervals, float64[m < bins], none where too few values are known.

    counts: float64[MAGNITUDES] over all sites. A value v is in interval number k for k borders that are <= v.
    """
    parts = _joined(counts, least)
    while len(parts) > bins:
        parts = _lightest_joined(parts)
    parts = _halved(parts, bins)
    made = [(one.high + other.low) / 2 for one, other in pairwise(parts)]
    return np.unique(np.array(made, np.float64))


def equal_borders(low: float, high: float, bins: int) -> Floats:
    """Return the borders between `bins` equal parts of a declared range, float64[bins - 1]."""
    return np.linspace(low, high, bins + 1)[1:-1]


def _joined(counts: Floats, least: int) -> list[_Part]:
    """Return intervals of at least `least` values each: the steps that hold values, joined from the lowest on."""
    made: list[_Part] = []
    for place in np.flatnonzero(counts > 0.5):
        low, high = ranges.step_of(int(place))
        step = _Part(low, high, float(counts[place]))
        if made and made[-1].count < least:
            step = _both(made.pop(), step)
        made.append(step)
    if len(made) > 1 and made[-1].count < least:
        last = made.pop()
        made.append(_both(made.pop(), last))
    return made


def _lightest_joined(parts: list[_Part]) -> list[_Part]:
    at = min(range(len(parts) - 1), key=lambda place: parts[place].count + parts[place + 1].count)
    return [*parts[:at], _both(parts[at], parts[at + 1]), *parts[at + 2 :]]


def _halved(parts: list[_Part], bins: int) -> list[_Part]:
    """Return `bins` intervals where there are fewer: the heaviest is halved each time, the lowest of equal ones."""
    waiting = [(-part.count, part.low, part) for part in parts if _divides(part)]
    done = [part for part in parts if not _divides(part)]
    heapq.heapify(waiting)
    while waiting and len(waiting) + len(done) < bins:
        _, _, part = heapq.heappop(waiting)
        middle = (part.low + part.high) / 2
        for half in (_Part(part.low, middle, part.count / 2), _Part(middle, part.high, part.count / 2)):
            if _divides(half):
                heapq.heappush(waiting, (-half.count, half.low, half))
            else:
                done.append(half)
    return sorted([*done, *(part for *_, part in waiting)], key=lambda part: part.low)


def _divides(part: _Part) -> bool:
    middle = (part.low + part.high) / 2
    return part.low < middle < part.high and part.high - part.low > 2 * float(ranges.EDGES[0])


def _both(one: _Part, other: _Part) -> _Part:
    return _Part(one.low, other.high, one.count + other.count)
