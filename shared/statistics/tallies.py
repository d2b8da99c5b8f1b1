"""Answers that are counts: moments, histogram, quantiles, contingency."""

import numpy as np

from undersong.shared.statistics import dyadic, measures, queries
from undersong.shared.statistics.results import (
    ColumnMoments,
    ContingencyResult,
    HistogramResult,
    MomentResult,
    QuantilesResult,
    QuantileValue,
)
from undersong.shared.statistics.steps import Floats, Setting, Steps, Tally, Withheld, range_for, scaled
from undersong.shared.statistics.steps import tallies as read
from undersong.shared.statistics.suppression import Mask, hidden_cells, hidden_counts, with_totals

OTHER = "(missing or other)"


def moment(query: queries.Moment, setting: Setting) -> Steps[MomentResult]:
    """Count, sum, mean or variance; a second, centred round where a variance needs it."""
    asked = measures.Moments(columns=tuple(scaled(name, query.ranges.get(name)) for name in query.columns))
    found = read(asked, (yield asked))
    fine = query.query == "variance" and not setting.noisy
    again = [tally for tally in found if fine and tally.blurred and not _objection(tally, setting)]
    if again:
        finer = measures.Moments(columns=tuple(_centred(tally) for tally in again))
        better = {tally.scaled.column: tally for tally in read(finer, (yield finer))}
        found = [better.get(tally.scaled.column, tally) for tally in found]
    return MomentResult(
        name=query.title, query=query.query, columns=tuple(_column(query.query, tally, setting) for tally in found)
    )


def _centred(tally: Tally) -> measures.Scaled:
    deviation = float(np.sqrt(tally.variance or 0.0))
    return tally.scaled.model_copy(update={"centre": tally.mean, "scale": deviation or tally.scaled.scale})


def _objection(tally: Tally, setting: Setting) -> str:
    """Why the column's numbers may not be shown, or nothing."""
    try:
        tally.check(setting)
    except Withheld as why:
        return str(why)
    return ""


def _column(kind: str, tally: Tally, setting: Setting) -> ColumnMoments:
    name = tally.scaled.column
    if why := _objection(tally, setting):
        return ColumnMoments(column=name, withheld=True, note=why)
    variance = tally.variance if kind == "variance" else None
    missing = tally.rows - tally.known - tally.outside
    return ColumnMoments(
        column=name,
        known=float(round(tally.known)),
        missing=setting.shown(missing),
        outside=setting.shown(tally.outside),
        sum=tally.total if kind == "sum" else None,
        mean=tally.mean if kind in ("mean", "variance") else None,
        variance=variance,
        deviation=None if variance is None else float(np.sqrt(variance)),
    )


def histogram(query: queries.Histogram, setting: Setting) -> Steps[HistogramResult]:
    """Return counts of bins, small ones hidden."""
    if query.edges is not None:
        edges = query.edges
        asked = measures.HistogramCounts(
            column=query.column, low=edges[0], high=edges[-1], bins=len(edges) - 1, edges=query.edges
        )
    else:
        low, high = yield from range_for(query.column, query.range, setting)
        edges = tuple(np.linspace(low, high, query.bins + 1).tolist())
        asked = measures.HistogramCounts(column=query.column, low=low, high=high, bins=query.bins)
    sums = yield asked
    setting.check(float(sums[0]), float(sums[2]), query.column)
    cells = np.concatenate([sums[3:4], sums[5:], sums[4:5]])
    below, *counts, above = _shown(cells, hidden_counts(cells, setting.least))
    return HistogramResult(
        name=query.title,
        column=query.column,
        total=float(round(sums[2])),
        edges=edges,
        counts=tuple(counts),
        below=below,
        above=above,
        note=_hidden_note([below, *counts, above], setting),
    )


def quantiles(query: queries.Quantiles, setting: Setting) -> Steps[QuantilesResult]:
    """Quantiles by going down a dyadic tree."""
    low, high = yield from range_for(query.column, query.range, setting)
    sums = yield measures.HistogramCounts(column=query.column, low=low, high=high, bins=2**query.depth)
    setting.check(float(sums[0]), float(sums[2]), query.column)
    counts = np.maximum(sums[3:], 0.0)  # noise can make one negative
    levels = dyadic.tree_of(counts[2:])
    below, above = float(counts[0]), float(counts[1])
    found = [dyadic.quantile(levels, low, high, share, setting.min_cell, below, above) for share in query.probabilities]
    values = [
        QuantileValue(probability=share)
        if one is None
        else QuantileValue(probability=share, low=one.low, high=one.high, value=one.value)
        for share, one in zip(query.probabilities, found, strict=True)
    ]
    return QuantilesResult(
        name=query.title, column=query.column, total=float(round(sums[2])), range=(low, high), values=tuple(values)
    )


def contingency(query: queries.Contingency, setting: Setting) -> Steps[ContingencyResult]:
    """Return counts by one or two columns, small ones hidden with as many others as their totals demand."""
    axes = tuple(_axis(name, query, setting) for name in query.columns)
    sums = yield measures.Table(axes=axes)
    setting.check(float(sums[0]), float(sums[1]))
    cells = sums[2:].reshape(axes[0].size, -1)
    labels = [_labels(axis) for axis in axes]
    if not cells[-1].any():
        cells, labels[0] = cells[:-1], labels[0][:-1]
    if len(axes) == 1:
        counts = _shown(cells[:, 0], hidden_counts(cells[:, 0], setting.least))
        return ContingencyResult(
            name=query.title,
            axes=axes,
            labels=tuple(labels),
            cells=tuple((count,) for count in counts),
            total=float(round(sums[1])),
            note=_hidden_note(counts, setting),
        )
    if not cells[:, -1].any():
        cells, labels[1] = cells[:, :-1], labels[1][:-1]
    hidden, whole = hidden_cells(cells, setting.least), with_totals(cells)
    lines = [_shown(row, mask) for row, mask in zip(whole, hidden, strict=True)]
    return ContingencyResult(
        name=query.title,
        axes=axes,
        labels=tuple(labels),
        cells=tuple(tuple(line[:-1]) for line in lines[:-1]),
        row_totals=tuple(line[-1] for line in lines[:-1]),
        column_totals=tuple(lines[-1][:-1]),
        total=lines[-1][-1],
        note=_hidden_note([cell for line in lines for cell in line], setting),
    )


def _axis(name: str, query: queries.Contingency, setting: Setting) -> measures.Axis:
    if name in query.values:
        return measures.Axis(column=name, values=query.values[name])
    if name in query.edges:
        return measures.Axis(column=name, edges=query.edges[name])
    return measures.Axis(column=name, texts=setting.columns[name].categories or ())


def _labels(axis: measures.Axis) -> tuple[str, ...]:
    if axis.edges:
        last = len(axis.edges) - 2
        ends = [")"] * last + ["]"]
        spans = zip(axis.edges, axis.edges[1:], ends, strict=False)
        return (*(f"[{low:g}, {high:g}{end}" for low, high, end in spans), OTHER)
    return (*(axis.texts or tuple(f"{value:g}" for value in axis.values)), OTHER)


def _shown(counts: Floats, hidden: Mask) -> list[float | None]:
    return [None if masked else float(round(count)) for count, masked in zip(counts, hidden, strict=True)]


def _hidden_note(counts: list[float | None], setting: Setting) -> str:
    hidden = sum(count is None for count in counts)
    return f"{hidden} counts are hidden: below {setting.min_cell}, or needed to hide those" if hidden else ""
