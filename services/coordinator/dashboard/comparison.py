"""Compared jobs as what the page shows: table, curves, CSV. Pure."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from undersong.services.coordinator.dashboard.wording import number, seconds
from undersong.services.coordinator.views.job_comparisons import ComparedJob, JobComparisonView

MOST_DRAWN: Final = 250
"""Points of one curve on the plot, which has hardly more pixels; the CSV file has all."""
MOST_COLUMNS: Final = 5
"""Metrics in the table; the CSV file has all."""


@dataclass(frozen=True, slots=True)
class SortColumn:
    """A column that the table can be sorted by."""

    key: str
    title: str


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One job's row; `place` is its place among the compared ones, which its colour follows."""

    place: int
    job: ComparedJob
    cells: tuple[tuple[SortColumn, str], ...]


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """The table, sorted."""

    columns: tuple[SortColumn, ...]
    rows: tuple[ComparedRow, ...]
    sort: str
    falling: bool


_FACTS: Final = (
    SortColumn("trained", "Rounds"),
    SortColumn("seconds", "Took"),
    SortColumn("sites", "Sites a round"),
    SortColumn("update_bytes", "Updates"),
    SortColumn("epsilon", "Epsilon"),
)


def table(found: JobComparisonView, sort: str, *, falling: bool) -> ComparisonTable:
    """Return a row for each job, sorted by a column; unknown columns leave the order as asked for.

    Jobs without a value come last, whichever way the others are sorted.
    """
    shown = [name for name in found.metrics if any(name in job.metrics for job in found.jobs)][:MOST_COLUMNS]
    columns = (*_FACTS, *(SortColumn(name, name) for name in shown))
    keys = {"name", "state", *(column.key for column in columns)}
    rows = [
        ComparedRow(place, job, tuple((column, _cell(job, column.key)) for column in columns))
        for place, job in enumerate(found.jobs)
    ]
    if sort in keys:
        known = [row for row in rows if _value(row.job, sort) is not None]
        known.sort(key=lambda row: _value(row.job, sort), reverse=falling)
        rows = [*known, *(row for row in rows if _value(row.job, sort) is None)]
    return ComparisonTable(columns, tuple(rows), sort if sort in keys else "", falling)


def _value(job: ComparedJob, key: str) -> Any:
    return getattr(job, key) if key in ComparedJob.model_fields else job.metrics.get(key)


def _cell(job: ComparedJob, key: str) -> str:
    value = _value(job, key)
    if value is None:
        return "exact sums" if key == "epsilon" else "–"
    if key == "seconds":
        return seconds(value)
    if key == "update_bytes":
        return decimal_size(value)
    return f"{value:g}" if key in {"trained", "sites", "epsilon"} else number(value)


def decimal_size(count: float) -> str:
    """Return bytes in the decimal units of the plot's axis: `1.2 MB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:g} B"


def setting(value: Any) -> str:
    """Return a setting as the job document has it."""
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def drawn(found: JobComparisonView, metric: str) -> dict[str, object]:
    """Return the curves of one metric: for each job its places on the three axes and its values."""
    return {
        "metric": metric,
        "curves": [
            {
                "rounds": _thin(job.curve.rounds),
                "seconds": _thin(job.curve.seconds),
                "bytes": None if job.curve.update_bytes is None else _thin(job.curve.update_bytes),
                "values": [_short(value) for value in _thin(job.curve.metrics.get(metric, []))],
            }
            for job in found.jobs
        ],
    }


def _thin(values: Sequence[Any]) -> list[Any]:
    """Return at most `MOST_DRAWN` of the values at even distances, the last one among them."""
    if len(values) <= MOST_DRAWN:
        return list(values)
    step = (len(values) - 1) / (MOST_DRAWN - 1)
    return [values[round(place * step)] for place in range(MOST_DRAWN)]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def curve_rows(found: JobComparisonView) -> Iterator[Sequence[object]]:
    """Yield a heading, then a row for each evaluation of each job."""
    yield "job_id", "job", "round", "seconds", "update_bytes", *found.metrics
    for job in found.jobs:
        curve = job.curve
        missing = [None] * len(curve.rounds)
        values = [curve.metrics.get(name, missing) for name in found.metrics]
        for line in zip(curve.rounds, curve.seconds, curve.update_bytes or missing, *values, strict=True):
            yield job.id, job.name, *line


def table_rows(found: JobComparisonView) -> Iterator[Sequence[object]]:
    """Yield a heading, then a row for each job: facts, newest metrics, and the settings that differ."""
    facts = ("id", "name", "state", "created_by", "trained", "seconds", "sites", "update_bytes", "epsilon", "delta")
    names = sorted({name for job in found.jobs for name in job.metrics})
    yield *facts, *names, *(each.path for each in found.settings)
    for place, job in enumerate(found.jobs):
        settings = (each.values[place] for each in found.settings)
        yield (
            *(getattr(job, name) for name in facts),
            *(job.metrics.get(name) for name in names),
            *(None if value is None else setting(value) for value in settings),
        )
