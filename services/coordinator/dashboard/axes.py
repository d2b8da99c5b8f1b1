"""Axes of plots: round ticks, and places in percent of a plot's width or height. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MOST_TICKS: Final = 6
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
_EDGE: Final = 4.0  # percent from an end within which a number under the axis does not stand in the middle of its tick


@dataclass(frozen=True, slots=True)
class Tick:
    """A number on an axis, at a place in percent from its low end."""

    at: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class PlotAxis:
    """An axis from `low` to `high` with its title."""

    title: str
    low: float
    high: float
    ticks: tuple[Tick, ...]

    def at(self, value: float) -> float:
        """Return a value's place in percent from the low end, within the axis."""
        return place(value, self.low, self.high)


def axis(title: str, low: float, high: float, *, most: int = MOST_TICKS, whole: bool = False) -> PlotAxis:
    """Return an axis with ticks at round numbers; `whole` numbers only, for counts."""
    high = high if high > low else low + 1.0
    step = round_step((high - low) / most)
    step = max(1.0, round(step)) if whole else step
    first = math.ceil(round(low / step, 6))
    values = [count * step for count in range(first, math.floor(round(high / step, 6)) + 1)]
    return PlotAxis(title, low, high, tuple(_tick(value, place(value, low, high), step) for value in values))


def rising(title: str, high: float) -> PlotAxis:
    """Return an axis of counts, from zero to the round number at or above `high`."""
    step = max(1.0, round_step(high / MOST_TICKS))
    return axis(title, 0.0, step * max(1, math.ceil(round(high / step, 6))))


def round_step(least: float) -> float:
    """Return the least of 1, 2, 2.5 and 5 times a power of ten that is at least `least`."""
    if least <= 0 or not math.isfinite(least):
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * each for each in _STEPS if power * each >= least * (1 - 1e-9))


def place(value: float, low: float, high: float) -> float:
    """Return where a value is between two others, in percent and within them."""
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)


def anchor(at: float, edge: float = _EDGE) -> str:
    """Return on which side of a place its text stands, so that it stays within the plot."""
    return "start" if at < edge else "end" if at > 100 - edge else "middle"


def points(pairs: Sequence[tuple[float, float]], across: PlotAxis, up: PlotAxis) -> str:
    """Return a curve's points in a view box of 100 by 100."""
    return " ".join(f"{across.at(x):g},{round(100 - up.at(y), 2):g}" for x, y in pairs)


def _tick(value: float, at: float, step: float) -> Tick:
    digits = max(
        0, -math.floor(math.log10(step) + 1e-9) + (step / 10 ** math.floor(math.log10(step) + 1e-9) % 1 > 1e-9)
    )
    text = f"{value:,.{digits}f}" if 1e-4 <= abs(step) < 1e12 else f"{value:g}"
    return Tick(at, text.replace("-0", "0", 1) if value == 0 else text, anchor(at))
