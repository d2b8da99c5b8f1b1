"""Plots of answers as numbers: where the template puts SVG shapes and texts. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from undersong.shared.statistics.results import (
    ContingencyResult,
    FitResult,
    HistogramResult,
    KaplanMeierResult,
    KMeansResult,
    QuantilesResult,
    RegressionResult,
    SurvivalCurve,
)

WIDTH: Final = 1000.0
HEIGHT: Final = 240.0
HIDDEN_HEIGHT: Final = 14.0
TICK_ROOM: Final = 110.0  # so that numbers on a phone do not run into each other
REACH: Final = 1.96


@dataclass(frozen=True, slots=True)
class PlotColumn:
    """One bar; `count` is None where it is hidden, and then the bar has a height that says nothing."""

    x: float
    y: float
    width: float
    height: float
    label: str
    count: float | None


@dataclass(frozen=True, slots=True)
class Tick:
    """A number on an axis."""

    x: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Bars:
    """A histogram in view-box units."""

    columns: tuple[PlotColumn, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class Whisker:
    """A value with its interval on one line."""

    name: str
    low: float
    at: float
    high: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """Values on one line, with ticks below."""

    whiskers: tuple[Whisker, ...]
    ticks: tuple[Tick, ...]
    zero: float | None = None


def number(value: float | None) -> str:
    """Return a number for people; a hidden one says so."""
    if value is None:
        return "hidden"
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.5g}"


def bars(result: HistogramResult) -> Bars:
    """Return a histogram: widths by the edges, heights by the share of the tallest density."""
    low, high = result.edges[0], result.edges[-1]
    per_unit = WIDTH / (high - low)
    spans = list(zip(result.edges, result.edges[1:], result.counts, strict=False))
    most = max((count / (b - a) for a, b, count in spans if count is not None), default=0.0) or 1.0
    columns = []
    for a, b, count in spans:
        height = HIDDEN_HEIGHT if count is None else HEIGHT * count / (b - a) / most
        x, width = (a - low) * per_unit, max((b - a) * per_unit - 1.5, 0.5)
        columns.append(
            PlotColumn(
                round(x, 1), round(HEIGHT - height, 1), round(width, 1), round(height, 1), f"{a:g} to {b:g}", count
            )
        )
    return Bars(tuple(columns), _ticks(result.edges, low, per_unit))


def quantile_line(result: QuantilesResult) -> Line:
    """Return the quantiles over the range."""
    if result.range is None:
        return Line((), ())
    low, high = result.range
    per_unit = WIDTH / (high - low)

    def at(value: float) -> float:
        return round((value - low) * per_unit, 1)

    whiskers = tuple(
        Whisker(
            name=f"{one.probability:.0%}",
            low=at(one.low),
            at=at(one.value),
            high=at(one.high),
            text=f"{number(one.value)} (between {number(one.low)} and {number(one.high)})",
        )
        for one in result.values
        if one.low is not None and one.value is not None and one.high is not None
    )
    step = (high - low) / 4
    return Line(whiskers, _ticks([low + place * step for place in range(5)], low, per_unit))


def forest(result: RegressionResult | FitResult) -> Line:
    """Coefficients in units of their standard errors, so that columns of all units stand on one axis."""
    terms = [(term.term, term.t) for term in result.terms if term.t is not None and term.term != "(intercept)"]
    most = max((abs(t) for _, t in terms), default=1.0) + REACH
    per_unit = WIDTH / (2 * most)

    def at(t: float) -> float:
        return round((t + most) * per_unit, 1)

    whiskers = tuple(
        Whisker(name, low=at(t - REACH), at=at(t), high=at(t + REACH), text=f"{t:.1f} errors") for name, t in terms
    )
    shown = [-round(most / 2), 0, round(most / 2)]
    return Line(whiskers, _ticks(shown, -most, per_unit), WIDTH / 2)


@dataclass(frozen=True, slots=True)
class StepCurve:
    """A curve and the band about it, as the points of SVG shapes."""

    name: str
    points: str
    reach: str
    text: str


@dataclass(frozen=True, slots=True)
class StepPlot:
    """Curves that fall in steps from one, in view-box units."""

    curves: tuple[StepCurve, ...]
    ticks: tuple[Tick, ...]


def steps(result: KaplanMeierResult) -> StepPlot:
    """Return the curves of groups that have one; a group without points keeps its place in the order of colours."""
    per_unit = WIDTH / (result.until or 1.0)
    ends = [place * (result.until or 1.0) / 4 for place in range(5)]
    return StepPlot(tuple(_step_curve(curve, per_unit) for curve in result.curves), _ticks(ends, 0.0, per_unit))


def _step_curve(curve: SurvivalCurve, per_unit: float) -> StepCurve:
    shown = [point for point in curve.points if point.time * per_unit <= WIDTH * 1.0001]
    times = [0.0, *(point.time * per_unit for point in shown)]
    middle = _stairs(times, [1.0, *(point.survival for point in shown)])
    upper = _stairs(times, [1.0, *(point.survival if point.high is None else point.high for point in shown)])
    lower = _stairs(times, [1.0, *(point.survival if point.low is None else point.low for point in shown)])
    last = f"{shown[-1].survival:.3f} at {number(shown[-1].time)}" if shown else curve.note
    return StepCurve(curve.group or "all", " ".join(middle), " ".join([*upper, *reversed(lower)]), last)


def _stairs(times: Sequence[float], shares: Sequence[float]) -> list[str]:
    """Return corners of a curve that keeps each share until the next time."""
    made: list[str] = []
    for place, share_left in enumerate(shares):
        height = round(HEIGHT * (1 - share_left), 1)
        made.append(f"{times[place]:.1f},{height}")
        if place + 1 < len(times):
            made.append(f"{times[place + 1]:.1f},{height}")
    return made


def square(points: Sequence[Sequence[float]], x: int, y: int) -> str:
    """Return points of a curve within the unit square as those of an SVG line; x, y: which numbers of each point."""
    return " ".join(f"{point[x] * HEIGHT:.1f},{(1 - point[y]) * HEIGHT:.1f}" for point in points)


def recalls(points: Sequence[Sequence[float]]) -> list[tuple[float, float, None]]:
    """Return recall and precision of points of threshold, recall and precision."""
    return [(recall, precision, None) for _, recall, precision in points]


def exponential(value: float) -> float:
    """Return a hazard ratio of its logarithm."""
    return math.exp(min(value, 700.0))


def shade(value: float | None) -> str:
    """Return the class of a correlation's colour; the cell shows its number too."""
    if value is None:
        return "none"
    strength = min(4, int(abs(value) * 5))
    return f"{'neg' if value < 0 else 'pos'}{strength}"


def share(count: float | None, counts: Sequence[Sequence[float | None]]) -> float:
    """Return a cell's bar, 0..100, against the largest cell that is shown."""
    most = max((cell for row in counts for cell in row if cell is not None), default=0.0)
    return round(100 * count / most, 1) if count is not None and most > 0 else 0.0


def cells(result: ContingencyResult) -> list[list[float | None]]:
    """Return the counts as lists."""
    return [list(row) for row in result.cells]


def sizes(result: KMeansResult) -> list[list[float | None]]:
    """Return the groups' sizes, as one row."""
    return [[cluster.size for cluster in result.clusters]]


def _ticks(values: Sequence[float], low: float, per_unit: float) -> tuple[Tick, ...]:
    made: list[Tick] = []
    for value in values:
        x = round((value - low) * per_unit, 1)
        if made and x - made[-1].x < TICK_ROOM:
            continue
        anchor = "start" if x < WIDTH / 50 else "end" if x > WIDTH * 0.98 else "middle"
        made.append(Tick(x, f"{value:g}", anchor))
    return tuple(made)
