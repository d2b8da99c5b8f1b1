"""What a site adds up for a measure: pure, from its rows to float64 sums."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.shared.statistics import clusters, likelihood, ranges
from undersong.shared.statistics.measures import (
    Axis,
    Clusters,
    HistogramCounts,
    Likelihood,
    Measure,
    MeasureInvalid,
    Moments,
    Products,
    Ranges,
    Scaled,
    Table,
    Term,
)
from undersong.shared.statistics.moments import sums_of
from undersong.shared.wire.profiles import Column

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows:
    """A site's rows: float64[n, c], a category as its place in the site's own list, NaN where missing."""

    columns: tuple[Column, ...]
    values: Floats

    def column(self, name: str) -> Column:
        """Return the column's declaration; raises `MeasureInvalid`."""
        found = next((column for column in self.columns if column.name == name), None)
        if found is None:
            raise MeasureInvalid(f"the column {name} was not asked for")
        return found

    def numbers(self, name: str) -> Floats:
        """float64[n] of a number column; raises `MeasureInvalid`."""
        if self.column(name).type != "number":
            raise MeasureInvalid(f"the column {name} holds no numbers")
        return self._at(name)

    def places(self, name: str, texts: Sequence[str]) -> Floats:
        """float64[n]: each category's place among `texts`, NaN for missing and other ones; raises `MeasureInvalid`."""
        own = self.column(name).categories
        if own is None:
            raise MeasureInvalid(f"the column {name} holds no categories")
        wanted = {text: float(place) for place, text in enumerate(texts)}
        lookup = np.array([wanted.get(text, np.nan) for text in own] + [np.nan])
        values = self._at(name)
        return lookup[np.where(np.isfinite(values), values, len(own)).astype(np.int64)]

    def _at(self, name: str) -> Floats:
        place = [column.name for column in self.columns].index(name)
        found: Floats = self.values[:, place]
        return found

    def __len__(self) -> int:
        return len(self.values)


def count(measure: Measure, rows: Rows) -> Floats:
    """Return the site's sums, float64[measure.length]; raises `MeasureInvalid`."""
    return _COUNTERS[type(measure)](measure, rows)


def _moments(measure: Moments, rows: Rows) -> Floats:
    made = [np.array([float(len(rows))])]
    for column in measure.columns:
        inside, known, outside = _inside(column, rows)
        made += [np.array([float(known > outside), known - outside, outside]), sums_of(inside[:, None])[1:, 0]]
    return np.concatenate(made)


def _inside(column: Scaled, rows: Rows) -> tuple[Floats, float, float]:
    """Scaled values, NaN where missing or outside; how many are known, and how many of those outside."""
    values = rows.numbers(column.column)
    known = np.isfinite(values)
    low = -np.inf if column.low is None else column.low
    high = np.inf if column.high is None else column.high
    good = known & (values >= low) & (values <= high)
    scaled = np.where(good, (values - column.centre) / column.scale, np.nan)
    return scaled, float(known.sum()), float(known.sum() - good.sum())


def _ranges(measure: Ranges, rows: Rows) -> Floats:
    made = []
    for name in measure.columns:
        values = rows.numbers(name)
        values = values[np.isfinite(values)]
        made += [np.array([float(values.size > 0), float(values.size)]), ranges.counts_by_size(values)]
    return np.concatenate(made)


def _histogram(measure: HistogramCounts, rows: Rows) -> Floats:
    values = rows.numbers(measure.column)
    values = values[np.isfinite(values)]
    edges = np.array(measure.edges) if measure.edges else np.linspace(measure.low, measure.high, measure.bins + 1)
    below, above = float((values < edges[0]).sum()), float((values > edges[-1]).sum())
    inside, _ = np.histogram(values, bins=edges)
    head = [float(values.size > 0), float(len(rows)), float(values.size), below, above]
    return np.concatenate([head, inside.astype(np.float64)])


def _table(measure: Table, rows: Rows) -> Floats:
    code = np.zeros(len(rows), np.int64)
    for axis in measure.axes:
        places = _places(axis, rows)
        code = code * axis.size + np.where(np.isfinite(places), places, axis.size - 1).astype(np.int64)
    cells = np.bincount(code, minlength=measure.length - 2)
    return np.concatenate([[float(len(rows) > 0), float(len(rows))], cells.astype(np.float64)])


def _places(axis: Axis, rows: Rows) -> Floats:
    """float64[n]: each row's place on the axis, NaN for missing and other values."""
    if axis.texts:
        return rows.places(axis.column, axis.texts)
    values = rows.numbers(axis.column)
    if axis.values:
        same = values[:, None] == np.array(axis.values)
        if axis.complete and (np.isfinite(values) & ~same.any(axis=1)).any():
            known = " and ".join(f"{value:g}" for value in axis.values)
            raise MeasureInvalid(f"{axis.column} holds values other than {known}")
        return np.where(same.any(axis=1), same.argmax(axis=1), np.nan)
    edges = np.array(axis.edges)
    places = np.searchsorted(edges, values, side="right") - 1.0
    places[values == edges[-1]] = edges.size - 2
    return np.where(np.isfinite(values) & (places >= 0) & (places < edges.size - 1), places, np.nan)


def _products(measure: Products, rows: Rows) -> Floats:
    terms = np.stack([_term(term, rows) for term in measure.terms], axis=1)
    terms = terms[np.isfinite(terms).all(axis=1)]
    upper = (terms.T @ terms)[np.triu_indices(terms.shape[1])]
    return np.concatenate([[float(len(terms) > 0), float(len(rows)), float(len(terms))], terms.sum(axis=0), upper])


def _term(term: Term, rows: Rows) -> Floats:
    if term.text is None:
        return (rows.numbers(term.column) - term.centre) / term.scale
    texts = rows.column(term.column).categories or ()
    places = rows.places(term.column, texts)
    wanted = texts.index(term.text) if term.text in texts else -1
    return np.where(np.isfinite(places), (places == wanted).astype(np.float64), np.nan)


def _clusters(measure: Clusters, rows: Rows) -> Floats:
    values = np.stack([_inside(column, rows)[0] for column in measure.columns], axis=1)
    values = values[np.isfinite(values).all(axis=1)]
    steps = [clusters.pack(clusters.step_of(values, np.array(start))) for start in measure.starts]
    return np.concatenate([[float(len(values) > 0), float(len(rows)), float(len(values))], *steps])


def _likelihood(measure: Likelihood, rows: Rows) -> Floats:
    terms = np.stack([_term(term, rows) for term in measure.terms], axis=1)
    response = _term(measure.response, rows)
    beside = [rows.numbers(name) for name in (measure.time, measure.exposure) if name is not None]
    good = np.isfinite(np.column_stack([terms, response, *beside])).all(axis=1)
    terms, response, beside = terms[good], response[good], [values[good] for values in beside]
    _check_response(measure, response)
    if measure.exposure is not None and (beside[0] <= 0).any():
        raise MeasureInvalid(f"{measure.exposure} holds values that are no exposure: they must be above zero")
    design = np.column_stack([np.ones((len(terms), measure.intercepts)), terms])
    at = np.array(measure.coefficients)
    pairs = (0.0, 0.0)
    if measure.family == "logistic":
        found = likelihood.logistic(design, response, at)
    elif measure.family == "poisson":
        found = likelihood.poisson(design, response, at, beside[0] if beside else np.ones(len(terms)))
    else:
        found = likelihood.cox(design, response, at, beside[0])
        pairs = likelihood.concordance(design @ at, response, beside[0]) if measure.pairs else pairs
    head = [float(len(terms) > 0), float(len(rows)), float(len(terms)), float(response.sum()), found.value]
    upper = found.information[np.triu_indices(at.size)]
    return np.concatenate([head, terms.sum(axis=0), found.gradient, upper, pairs])


def _check_response(measure: Likelihood, response: Floats) -> None:
    name = measure.response.column
    if measure.family == "poisson":
        if (response < 0).any() or (response != np.floor(response)).any():
            raise MeasureInvalid(f"{name} holds values that are no counts: 0, 1, 2, …")
    elif not np.isin(response, (0, 1)).all():
        raise MeasureInvalid(f"{name} holds values other than 0 and 1")


_COUNTERS: Final[Mapping[type, Callable[[Any, Rows], Floats]]] = {
    Moments: _moments,
    Ranges: _ranges,
    HistogramCounts: _histogram,
    Table: _table,
    Products: _products,
    Clusters: _clusters,
    Likelihood: _likelihood,
}
