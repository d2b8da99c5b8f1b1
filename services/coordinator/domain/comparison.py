"""What distinguishes jobs: settings that differ, by path, and how far each had come at each evaluation. Pure."""

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any, Final

from undersong.shared.documents import pointer
from undersong.shared.ids import JobId
from undersong.shared.learning.metrics import COUNTS

MOST_COMPARED_JOBS: Final = 8
FIRST_METRICS: Final = ("accuracy", "auc", "concordance", "loss", "r2", "rmse", "mae")
NO_CURVES: Final = COUNTS | {"auc_error"}
"""What is no curve of its own: the number of rows, and how exact another metric is."""
_BETTER_SMALL: Final = ("loss", "rmse", "mae", "mape", "ece", "perplexity", "bits", "quantile_loss", "pr_auc_error")
_NAMED_ELSEWHERE: Final = ("name", "federation_id")


@dataclass(frozen=True, slots=True)
class SettingDifference:
    """One setting that is not the same in all jobs; a job without it has None."""

    path: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class PublishedRound:
    """A published round, as far as curves need it."""

    job_id: JobId
    trains: bool
    number: int
    got: int
    finished_at: datetime
    metrics: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Metrics at each evaluation, in order, and what it had cost until then.

    Each list has one entry for each evaluation: round number, seconds since the job was submitted, bytes of the updates
    that were summed (None where the size of an update is not known), and for each metric its value or None.
    """

    rounds: tuple[int, ...]
    seconds: tuple[float, ...]
    update_bytes: tuple[int, ...] | None
    metrics: Mapping[str, tuple[float | None, ...]]


def differing(specs: Sequence[Mapping[str, Any]]) -> list[SettingDifference]:
    """Return the settings that differ between job documents, in the documents' order; lists are compared whole.

    Names are left out: they differ and say nothing.
    """
    flat = [dict(leaves({k: v for k, v in spec.items() if k not in _NAMED_ELSEWHERE})) for spec in specs]
    paths = dict.fromkeys(path for leaves in flat for path in leaves)
    found = [SettingDifference(path, tuple(leaves.get(path) for leaves in flat)) for path in paths]
    return [each for each in found if len({_same(value) for value in each.values}) > 1]


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterable[tuple[str, Any]]:
    """Yield each value of a document that is no mapping, with its path."""
    if not isinstance(value, Mapping):
        yield pointer(path), value
        return
    for name, inner in value.items():
        yield from leaves(inner, (*path, name))


def _same(value: Any) -> tuple[str, Any]:
    """Return a key that is equal for equal JSON values: 1 is 1.0, and is not true."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number", value
    return "other", json.dumps(value, sort_keys=True)


def metric_names(curves: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return every metric that has a curve, those that most people look for first."""
    found = dict.fromkeys(name for metrics in curves for name in metrics if name not in NO_CURVES)
    return [*(name for name in FIRST_METRICS if name in found), *(name for name in found if name not in FIRST_METRICS)]


def rises(metric: str) -> bool:
    """Return whether a larger value of a metric is a better one, by its name: errors and losses are better small."""
    return not metric.startswith(_BETTER_SMALL)


def learning_curve(
    submitted_at: datetime, rounds: Sequence[PublishedRound], bytes_of_update: int | None
) -> LearningCurve:
    """Return the curve of one job's published rounds."""
    ordered = sorted(rounds, key=lambda each: each.finished_at)
    measured = [each for each in ordered if each.metrics]
    trained = [each for each in ordered if each.trains]
    summed = list(accumulate((each.got for each in trained), initial=0))
    ends = [each.finished_at for each in trained]
    updates = [summed[bisect_right(ends, each.finished_at)] for each in measured]
    names = metric_names(each.metrics or {} for each in measured)
    return LearningCurve(
        rounds=tuple(each.number for each in measured),
        seconds=tuple(round((each.finished_at - submitted_at).total_seconds(), 3) for each in measured),
        update_bytes=None if bytes_of_update is None else tuple(count * bytes_of_update for count in updates),
        metrics={name: tuple((each.metrics or {}).get(name) for each in measured) for name in names},
    )
