"""Plots of answers as numbers: where the template puts SVG shapes and texts, in percent of the plot. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from undersong.services.coordinator.dashboard.axes import PlotAxis, anchor, axis, points, rising
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

HIDDEN_HEIGHT: Final = 6.0
GAP: Final = 0.15  # between two bars
REACH: Final = 1.96
_LABEL_EDGE: Final = 25.0  # percent from an end within which a mark's label begins or ends at the mark


@dataclass(frozen=True, slots=True)
class PlotColumn:
    """One bar; `count` is None where it is hidden, and then the bar has a height that says nothing."""

    x: float
    width: float
    height: float
    label: str
    count: float | None


@dataclass(frozen=True, slots=True)
class Bars:
    """A histogram."""

    columns: tuple[PlotColumn, ...]
    across: PlotAxis
    up: PlotAxis


@dataclass(frozen=True, slots=True)
class Whisker:
    """A value with its interval on a line of its own; its label stands above it."""

    name: str
    low: float
    at: float
    high: float
    text: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Line:
    """Values below each other on one axis."""

    whiskers: tuple[Whisker, ...]
    across: PlotAxis
    zero: float | None = None


def number(value: float | None) -> str:
    """Return a number for people; a hidden one says so."""
    if value is None:
        return "hidden"
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.5g}"


def bars(result: HistogramResult) -> Bars:
    """Return a histogram: widths by the edges; heights are counts, or counts for each unit where widths differ."""
    across = axis(result.column, result.edges[0], result.edges[-1])
    spans = list(zip(result.edges, result.edges[1:], result.counts, strict=False))
    widths = [b - a for a, b, _ in spans]
    even = max(widths) - min(widths) <= 1e-6 * max(widths)
    heights = [None if count is None else count if even else count / (b - a) for a, b, count in spans]
    most = max((height for height in heights if height is not None), default=0.0) or 1.0
    up = rising("rows", most) if even else axis(f"rows for each unit of {result.column}", 0.0, most * 1.05)
    columns = []
    for (a, b, count), height in zip(spans, heights, strict=True):
        x, width = across.at(a), max(across.at(b) - across.at(a) - GAP, 0.1)
        tall = HIDDEN_HEIGHT if height is None else up.at(height)
        columns.append(PlotColumn(x, round(width, 2), tall, f"{a:g} to {b:g}", count))
    return Bars(tuple(columns), across, up)


def quantile_line(result: QuantilesResult) -> Line:
    """Return the quantiles over the range."""
    low, high = result.range or (0.0, 1.0)
    across = axis(result.column, low, high)
    whiskers = []
    for one in result.values:
        if one.low is not None and one.value is not None and one.high is not None:
            text = f"{number(one.value)} (between {number(one.low)} and {number(one.high)})"
            whiskers.append(_whisker(f"{100 * one.probability:.3g} %", across, one.low, one.value, one.high, text))
    return Line(tuple(whiskers) if result.range else (), across)


def forest(result: RegressionResult | FitResult) -> Line:
    """Coefficients in units of their standard errors, so that columns of all units stand on one axis."""
    terms = [(term.term, term.t) for term in result.terms if term.t is not None and term.term != "(intercept)"]
    most = max((abs(t) for _, t in terms), default=1.0) + REACH
    across = axis("standard errors", -most, most)
    whiskers = [_whisker(name, across, t - REACH, t, t + REACH, f"{t:.1f} errors") for name, t in terms]
    return Line(tuple(whiskers), across, across.at(0.0))


def _whisker(name: str, across: PlotAxis, low: float, value: float, high: float, text: str) -> Whisker:
    at = across.at(value)
    return Whisker(name, across.at(low), at, across.at(high), text, anchor(at, _LABEL_EDGE))


@dataclass(frozen=True, slots=True)
class StepCurve:
    """A curve and the band about it, as the points of SVG shapes in a view box of 100 by 100."""

    name: str
    points: str
    reach: str
    text: str


@dataclass(frozen=True, slots=True)
class StepPlot:
    """Curves that fall in steps from one."""

    curves: tuple[StepCurve, ...]
    across: PlotAxis
    up: PlotAxis


def steps(result: KaplanMeierResult) -> StepPlot:
    """Return the curves of groups that have one; a group without points keeps its place in the order of colours."""
    across, up = axis("time", 0.0, result.until or 1.0), axis("share without the event", 0.0, 1.0)
    return StepPlot(tuple(_step_curve(curve, across, up) for curve in result.curves), across, up)


def _step_curve(curve: SurvivalCurve, across: PlotAxis, up: PlotAxis) -> StepCurve:
    shown = [point for point in curve.points if point.time <= across.high * 1.0001]
    times = [0.0, *(point.time for point in shown)]
    middle = _stairs(times, [1.0, *(point.survival for point in shown)])
    upper = _stairs(times, [1.0, *(point.survival if point.high is None else point.high for point in shown)])
    lower = _stairs(times, [1.0, *(point.survival if point.low is None else point.low for point in shown)])
    last = f"{shown[-1].survival:.3f} at {number(shown[-1].time)}" if shown else curve.note
    band = points([*upper, *reversed(lower)], across, up)
    return StepCurve(curve.group or "all", points(middle, across, up), band, last)


def _stairs(times: Sequence[float], shares: Sequence[float]) -> list[tuple[float, float]]:
    """Return corners of a curve that keeps each share until the next time."""
    made: list[tuple[float, float]] = []
    for place, share_left in enumerate(shares):
        made.append((times[place], share_left))
        if place + 1 < len(times):
            made.append((times[place + 1], share_left))
    return made


@dataclass(frozen=True, slots=True)
class UnitSquare:
    """A curve between 0 and 1 both ways; each mark is its place across and up in percent, and what it says."""

    points: str
    marks: tuple[tuple[float, float, str], ...]
    across: PlotAxis
    up: PlotAxis


def square(found: Sequence[Sequence[float]], across_title: str, up_title: str) -> UnitSquare:
    """Return the curve through points of x, y and, where known, rows."""
    across, up = axis(across_title, 0.0, 1.0, most=5), axis(up_title, 0.0, 1.0, most=5)
    marks = []
    for x, y, *rows in found:
        text = f"{y:.3g} at {x:.3g}" + (f", {rows[0]:,.0f} rows" if rows else "")
        marks.append((across.at(x), up.at(y), text))
    return UnitSquare(points([(each[0], each[1]) for each in found], across, up), tuple(marks), across, up)


def recalls(found: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Return recall and precision of points of threshold, recall and precision."""
    return [(recall, precision) for _, recall, precision in found]


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
