"""Answers of statistics jobs in a terminal: tables, and plots of blocks where they help."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from undersong.client.types import StatisticsResults
from undersong.shared.statistics import results as r

WIDTH: Final = 40
POINTS: Final = 15  # of a curve; all are in --json
HIDDEN: Final = "hidden"
_NOISE: Final = {"known": "noise", "missing": "noise", "outside": "noise"}
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_SHADES: Final = (("bold red", -0.5), ("red", -0.2), ("dim", 0.2), ("green", 0.5), ("bold green", 2.0))


def show_all(found: StatisticsResults, console: Console, source: str) -> None:
    """Print all answers of a job, what protects the rows behind them, and where they come from."""
    for result in found.results:
        show(result, console)
    if any(result.noise is not None for result in found.results):
        protects = "noise protects every row, small counts are shown"
    else:
        protects = f"at least {found.min_cohort} sites and {found.min_cell} rows stand behind every number shown"
    console.print(f"{protects}; {source}", style="dim", markup=False)


def show(result: r.Result, console: Console) -> None:
    """Print one answer."""
    console.print(f"[bold]{result.name.replace('[', chr(92) + '[')}[/]", markup=True)
    if result.status != "ok":
        console.print(f"  {result.status}: {result.note}", markup=False)
        return
    _FIGURES[type(result)](result, console)
    if result.noise is not None:
        console.print(
            f"  ± {result.noise:.3g} on each count: the noise's standard deviation", style="dim", markup=False
        )
    if result.note:
        console.print(f"  {result.note}", style="dim", markup=False)


def number(value: float | None) -> str:
    """Return a number with six digits; a hidden one says so."""
    if value is None:
        return HIDDEN
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"


def bar(share: float, width: int = WIDTH) -> str:
    """Return a bar of blocks, in steps of an eighth."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=True)
    for place, title in enumerate(titles):
        table.add_column(title, justify="left" if place == 0 else "right")
    return table


def _moments(result: r.MomentResult, console: Console) -> None:
    asked = {
        "count": ("known",),
        "sum": ("sum", "known"),
        "mean": ("mean", "known"),
        "variance": ("variance", "deviation", "mean", "known"),
    }[result.query]
    table = _table("column", *asked, "missing", "outside")
    notes = []
    for column in result.columns:
        cells = [_with_noise(column, name) for name in (*asked, "missing", "outside")]
        table.add_row(column.column, *cells)
        notes += [column.note] if column.note else []
    console.print(table)
    for note in notes:
        console.print(f"  {note}", style="dim", markup=False)


def _with_noise(column: r.ColumnMoments, name: str) -> str:
    value, noise = number(getattr(column, name)), getattr(column, _NOISE.get(name, f"{name}_noise"), None)
    return value if noise is None or value == HIDDEN else f"{value} ± {noise:.3g}"


def _bars(labels: Sequence[str], counts: Sequence[float | None], console: Console) -> None:
    most = max((count for count in counts if count is not None), default=0) or 1
    table = _table("", "count")
    table.add_column("", justify="left")
    for label, count in zip(labels, counts, strict=True):
        table.add_row(label, number(count), "·" if count is None else bar(count / most))
    console.print(table, markup=False)


def _histogram(result: r.HistogramResult, console: Console) -> None:
    spans = [f"{low:g} – {high:g}" for low, high in zip(result.edges, result.edges[1:], strict=False)]
    labels, counts = list(spans), list(result.counts)
    if result.below != 0:
        labels, counts = ["below", *labels], [result.below, *counts]
    if result.above != 0:
        labels, counts = [*labels, "above"], [*counts, result.above]
    _bars(labels, counts, console)


def _quantiles(result: r.QuantilesResult, console: Console) -> None:
    table = _table("share below", "value", "between", "and")
    for one in result.values:
        cells = ["out of range"] * 3 if one.value is None else [number(one.value), number(one.low), number(one.high)]
        table.add_row(f"{one.probability:.1%}", *cells)
    console.print(table)


def _contingency(result: r.ContingencyResult, console: Console) -> None:
    if len(result.axes) == 1:
        _bars(result.labels[0], [row[0] for row in result.cells], console)
        return
    first, second = (axis.column for axis in result.axes)
    table = _table(f"{first} \\ {second}", *result.labels[1], "total")
    for label, row, total in zip(result.labels[0], result.cells, result.row_totals, strict=True):
        table.add_row(label, *map(number, row), number(total))
    table.add_row("total", *map(number, result.column_totals), number(result.total))
    console.print(table)


def _correlation(result: r.CorrelationResult, console: Console) -> None:
    table = _table("", *result.columns)
    for name, row in zip(result.columns, result.matrix, strict=True):
        table.add_row(name, *(_shaded(value) for value in row))
    console.print(table)
    console.print(f"  {number(result.rows)} complete rows", style="dim")


def _components(result: r.PrincipalComponentsResult, console: Console) -> None:
    table = _table("", *(f"component {place + 1}" for place in range(len(result.components))))
    for place, name in enumerate(result.columns):
        table.add_row(name, *(_shaded(component.weights[place]) for component in result.components))
    table.add_row("share of variance", *(f"{component.share:.1%}" for component in result.components))
    console.print(table)
    console.print(f"  {number(result.rows)} complete rows; weights of columns in standard deviations", style="dim")


def _shaded(value: float | None) -> str:
    if value is None:
        return "–"
    style = next(style for style, limit in _SHADES if value < limit)
    return f"[{style}]{value:+.3f}[/]"


def _regression(result: r.RegressionResult, console: Console) -> None:
    table = _table("term", "coefficient", "std. error", "t", "95 % from", "to")
    for term in result.terms:
        cells = [term.value, term.error, term.t, term.low, term.high]
        table.add_row(term.term, *("–" if cell is None else f"{cell:.5g}" for cell in cells))
    console.print(table)
    fit = "" if result.r2 is None else f", R² {result.r2:.4f}"
    console.print(f"  {result.target}: {number(result.rows)} complete rows{fit}", style="dim", markup=False)


def _fit(result: r.FitResult, console: Console) -> None:
    ratio = result.query == "cox_regression"
    table = _table("term", "coefficient", *(["hazard ratio"] if ratio else []), "std. error", "p", "95 % from", "to")
    for term in result.terms:
        cells = [term.value, *([math.exp(term.value)] if ratio else []), term.error, term.p, term.low, term.high]
        table.add_row(term.term, *("–" if cell is None else f"{cell:.5g}" for cell in cells))
    console.print(table)
    facts = [f"{number(result.rows)} complete rows, {number(result.events)} events, {result.steps} steps"]
    if result.likelihood_ratio is not None:
        facts.append(f"likelihood ratio {result.likelihood_ratio:.4g} on {result.freedom} degrees of freedom")
    if result.concordance is not None:
        facts.append(f"concordance {result.concordance:.4f} within sites")
    console.print(f"  {'; '.join(facts)}", style="dim", markup=False)


def _kaplan_meier(result: r.KaplanMeierResult, console: Console) -> None:
    for curve in result.curves:
        rows = f"{number(curve.rows)} rows, {number(curve.events)} events" if curve.points else curve.note
        console.print(f"  {curve.group or 'all'}: {rows}", markup=False)
        if not curve.points:
            continue
        table = _table("time", "free of it", "95 % from", "to", "at risk")
        table.add_column("", justify="left")
        for point in curve.points[:: max(1, len(curve.points) // POINTS)]:
            reach = ["–" if bound is None else f"{bound:.3f}" for bound in (point.low, point.high)]
            cells = [number(point.time), f"{point.survival:.3f}", *reach, number(point.at_risk)]
            table.add_row(*cells, bar(point.survival, 16))
        console.print(table)
        if curve.median is not None:
            console.print(f"  median between {number(curve.median[0])} and {number(curve.median[1])}", style="dim")
    if result.log_rank is not None and result.p is not None:
        console.print(f"  log-rank {result.log_rank:.4g}, p {result.p:.3g}", style="dim")


def _k_means(result: r.KMeansResult, console: Console) -> None:
    table = _table("group", "size", *result.columns)
    table.add_column("", justify="left")
    most = max((cluster.size or 0 for cluster in result.clusters), default=0) or 1
    for place, cluster in enumerate(result.clusters):
        centre = [*map(number, cluster.centre)] or ["–"] * len(result.columns)
        table.add_row(str(place + 1), number(cluster.size), *centre, bar((cluster.size or 0) / most, 16))
    console.print(table)
    rest = "at rest" if result.settled else "still moving"
    console.print(f"  {number(result.rows)} complete rows, {result.steps} steps, {rest}", style="dim")


_FIGURES: Final[Mapping[type, Callable[[Any, Console], None]]] = {
    r.MomentResult: _moments,
    r.HistogramResult: _histogram,
    r.QuantilesResult: _quantiles,
    r.ContingencyResult: _contingency,
    r.CorrelationResult: _correlation,
    r.PrincipalComponentsResult: _components,
    r.RegressionResult: _regression,
    r.KMeansResult: _k_means,
    r.FitResult: _fit,
    r.KaplanMeierResult: _kaplan_meier,
}
