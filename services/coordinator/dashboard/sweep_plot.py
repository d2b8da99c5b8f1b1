"""A sweep as parallel coordinates: an axis for each setting and one for a metric, a line for each job. Pure."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from undersong.services.coordinator.dashboard.axes import PlotAxis, Tick, axis, place
from undersong.services.coordinator.domain.comparison import rises
from undersong.services.coordinator.views.sweeps import SweepJobView, SweepView

SHADES: Final = 5
MOST_AXES: Final = 8
_ROOM: Final = 7.0  # percent between two texts on an axis
_LOG_FROM: Final = 30  # times the least value, from which an axis of positive numbers is even in the logarithm


@dataclass(frozen=True, slots=True)
class Upright:
    """An axis that stands at `x` percent from the left."""

    title: str
    path: str
    x: float
    ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job's line, in a view box of 100 by 100; `shade` 0 is the worst fifth, 4 the best."""

    job: SweepJobView
    points: str
    shade: int
    text: str


@dataclass(frozen=True, slots=True)
class Parallel:
    """All lines, the best drawn last; and how many jobs have no value of the metric yet."""

    axes: tuple[Upright, ...]
    lines: tuple[JobLine, ...]
    metric: str
    missing: int


def ordered(sweep: SweepView, metric: str) -> list[SweepJobView]:
    """Return the jobs, the best by the metric first, then those without a value."""
    known = [job for job in sweep.jobs if metric in job.metrics]
    rest = [job for job in sweep.jobs if metric not in job.metrics]
    return [*sorted(known, key=lambda job: job.metrics[metric], reverse=rises(metric)), *rest]


def parallel(sweep: SweepView, metric: str) -> Parallel:
    """Return the plot of the jobs that have a value of the metric, over the first settings that are varied."""
    known = [job for job in ordered(sweep, metric) if metric in job.metrics]
    paths = sweep.parameters[: MOST_AXES - 1]
    columns = [[job.values[at] for job in sweep.jobs] for at in range(len(paths))]
    heights = [_heights(column) for column in columns]
    results = [job.metrics[metric] for job in known]
    scale = axis(metric, min(results, default=0.0), max(results, default=1.0), most=5)
    step = 100 / len(paths) if paths else 100
    axes = [
        Upright(_short(path, sweep.parameters), path, round(at * step, 2), _ticks(column))
        for at, (path, column) in enumerate(zip(paths, columns, strict=True))
    ]
    axes.append(Upright(metric, metric, 100.0, scale.ticks))
    lines = [
        _line(job, sweep, heights, scale, metric, step, rank / max(1, len(known))) for rank, job in enumerate(known)
    ]
    return Parallel(tuple(axes), tuple(reversed(lines)), metric, len(sweep.jobs) - len(known))


def _line(
    job: SweepJobView,
    sweep: SweepView,
    heights: Sequence[dict[str, float]],
    scale: PlotAxis,
    metric: str,
    step: float,
    rank: float,
) -> JobLine:
    corners = [(at * step, found[_key(job.values[at])]) for at, found in enumerate(heights)]
    corners.append((100.0, scale.at(job.metrics[metric])))
    names = [_short(path, sweep.parameters) for path in sweep.parameters]
    told = [f"{name} {shown(value)}" for name, value in zip(names, job.values, strict=True)]
    text = f"job {job.place}: {', '.join(told)}; {metric} {job.metrics[metric]:.4g}"
    points = " ".join(f"{x:g},{round(100 - y, 2):g}" for x, y in corners)
    return JobLine(job, points, SHADES - 1 - min(SHADES - 1, int(rank * SHADES)), text)


def shown(value: Any) -> str:
    """Return a setting's value; one that a job does not change is the document's."""
    if value is None:
        return "as in the document"
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _heights(column: Sequence[Any]) -> dict[str, float]:
    """Return the place of each value of a setting: numbers by their size, others in their order."""
    numbers = [each for each in column if _is_number(each)]
    if len(numbers) == len(column):
        scale = math.log if min(numbers) > 0 and max(numbers) >= _LOG_FROM * min(numbers) else float
        low, high = scale(min(numbers)), scale(max(numbers))
        return {_key(each): place(scale(each), low, high) if high > low else 50.0 for each in column}
    keys = list(dict.fromkeys(map(_key, column)))
    return {key: 100 * at / (len(keys) - 1) if len(keys) > 1 else 50.0 for at, key in enumerate(keys)}


def _ticks(column: Sequence[Any]) -> tuple[Tick, ...]:
    """Return a tick for each value that has room for its text."""
    heights, texts = _heights(column), {_key(each): shown(each) for each in column}
    ticks: list[Tick] = []
    for key, at in sorted(heights.items(), key=lambda each: each[1]):
        if not ticks or at - ticks[-1].at >= _ROOM:
            ticks.append(Tick(at, texts[key]))
    return tuple(ticks)


def _short(path: str, among: Sequence[str]) -> str:
    name = path.rpartition("/")[2]
    return name if sum(each.rpartition("/")[2] == name for each in among) == 1 else path.lstrip("/")


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
