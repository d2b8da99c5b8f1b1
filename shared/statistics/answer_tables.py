"""Answers as tables, a header and rows, for files that other programs read. What is hidden is None."""

from collections.abc import Sequence

from undersong.shared.statistics.results import (
    ContingencyResult,
    CorrelationResult,
    FitResult,
    HistogramResult,
    KaplanMeierResult,
    KMeansResult,
    MomentResult,
    PrincipalComponentsResult,
    QuantilesResult,
    RegressionResult,
    Result,
)

Table = Sequence[Sequence[object]]


def table(result: Result) -> Table:
    """Return the numbers of an answer below the names of its columns."""
    match result:
        case MomentResult():
            return _moments(result)
        case HistogramResult():
            spans = zip(result.edges, result.edges[1:], result.counts, strict=False)
            return [["from", "to", "count"], *([a, b, count] for a, b, count in spans)]
        case QuantilesResult():
            header: list[object] = ["share_below", "value", "low", "high"]
            return [header, *([one.probability, one.value, one.low, one.high] for one in result.values)]
        case ContingencyResult():
            return _contingency(result)
        case CorrelationResult():
            return _matrix(result.columns, result.columns, result.matrix)
        case PrincipalComponentsResult():
            names = [f"component_{place}" for place in range(1, len(result.components) + 1)]
            weights = [[one.weights[place] for one in result.components] for place in range(len(result.columns))]
            return [
                *_matrix(result.columns, names, weights),
                ["share of variance", *(o.share for o in result.components)],
            ]
        case RegressionResult() | FitResult():
            header = ["term", "coefficient", "error", "low", "high", "t", "p"]
            return [header, *([o.term, o.value, o.error, o.low, o.high, o.t, o.p] for o in result.terms)]
        case KaplanMeierResult():
            header = ["group", "time", "survival", "low", "high", "at_risk", "events"]
            curves = [(curve.group or "all", point) for curve in result.curves for point in curve.points]
            return [header, *([g, p.time, p.survival, p.low, p.high, p.at_risk, p.events] for g, p in curves)]
        case KMeansResult():
            empty = (None,) * len(result.columns)
            rows = [[place, one.size, *(one.centre or empty)] for place, one in enumerate(result.clusters, 1)]
            return [["group", "size", *result.columns], *rows]


def _moments(result: MomentResult) -> Table:
    names = ("known", "missing", "outside", "sum", "mean", "variance", "deviation")
    return [["column", *names], *([each.column, *(getattr(each, name) for name in names)] for each in result.columns)]


def _contingency(result: ContingencyResult) -> Table:
    if len(result.axes) == 1:
        counts = [row[0] for row in result.cells]
        return [[result.axes[0].column, "count"], *map(list, zip(result.labels[0], counts, strict=True))]
    first, second = result.axes
    header: list[object] = [first.column, *(f"{second.column} {label}" for label in result.labels[1])]
    return [header, *([label, *row] for label, row in zip(result.labels[0], result.cells, strict=True))]


def _matrix(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]]) -> Table:
    return [["column", *columns], *([name, *row] for name, row in zip(rows, values, strict=True))]
