"""A column's range from counts by size, without anyone's smallest or largest value.

Source of the idea: Wilson et al., Differentially Private SQL with Bounded User Contribution (PETS 2020), section 5.1.1
(approximate bounds); here without noise, with a minimum count instead. Values fall into steps of one eighth of an
octave, from 2**-20 to 2**41 on both sides of zero; smaller ones count as zero. The range ends where at least `least`
values lie further out.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.shared.statistics.measures import MAGNITUDES

Floats = npt.NDArray[np.float64]
STEPS: Final = 8
LOWEST: Final = -20
HALF: Final = MAGNITUDES // 2


def _edges() -> Floats:
    """Return the rising borders of positive steps, float64[HALF + 1]; the first also means zero."""
    step = np.arange(HALF + 1)
    return np.exp2(LOWEST + step // STEPS) * (1 + (step % STEPS) / STEPS)


EDGES: Final = _edges()


def counts_by_size(values: Floats) -> Floats:
    """Return counts float64[MAGNITUDES] of known values, from the most negative step over zero to the most positive."""
    step = np.clip(np.searchsorted(EDGES, np.abs(values), side="right"), 0, HALF)
    place = HALF + np.where(values < 0, -step, step)
    return np.bincount(place, minlength=MAGNITUDES).astype(np.float64)


def range_of(counts: Floats, least: int) -> tuple[float, float] | None:
    """Return a range that holds all but fewer than `least` values at each end; nothing where there are fewer in all."""
    if counts.sum() < 2 * least:
        return None
    low = int(np.searchsorted(np.cumsum(counts), least))
    high = MAGNITUDES - 1 - int(np.searchsorted(np.cumsum(counts[::-1]), least))
    return _lower(low), _upper(high)


def step_of(place: int) -> tuple[float, float]:
    """Return the borders of the step that is counted at this place of `counts_by_size`."""
    return (float(-EDGES[0]), float(EDGES[0])) if place == HALF else (_lower(place), _upper(place))


def _lower(place: int) -> float:
    step = place - HALF
    return 0.0 if step == 0 else float(EDGES[step - 1] if step > 0 else -EDGES[-step])


def _upper(place: int) -> float:
    step = place - HALF
    return float(EDGES[0] if step == 0 else EDGES[step] if step > 0 else -EDGES[-step - 1])
