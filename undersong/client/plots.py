"""Answers as plots, for notebooks. matplotlib is imported when a plot is asked for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from undersong.client import frames
from undersong.errors import UndersongError
from undersong.shared.names import hint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from undersong.client.types import JobComparison, Sweep

AXES: Final = {"round": "round", "seconds": "seconds since the start", "update_bytes": "bytes of updates"}
INSTALL: Final = "pip install 'undersong[notebook]'"


def curves(comparison: "JobComparison", metrics: Sequence[str], over: str) -> "Axes":
    """Draw each job's metrics, by default the first that there is, over rounds, seconds or bytes of updates."""
    chosen = _known(metrics or comparison.metrics[:1], comparison.metrics, "metric")
    _known([over], list(AXES), "axis")
    if not chosen:
        raise UndersongError("no evaluation has ended yet, so there is nothing to draw")
    frame, axes = frames.curves_frame(comparison), _axes()
    for job_id, rows in frame.groupby("job_id", sort=False):
        name = next(job.name for job in comparison.jobs if job.id == job_id)
        for metric in chosen:
            label = ", ".join([*([name] if len(comparison.jobs) > 1 else []), *([metric] if len(chosen) > 1 else [])])
            axes.plot(rows[over], rows[metric].astype(float), marker="o", markersize=3, label=label or name)
    axes.set(xlabel=AXES[over], ylabel=chosen[0] if len(chosen) == 1 else "metrics")
    axes.legend()
    return axes


def sweep(found: "Sweep", parameter: str | None, metric: str | None) -> "Axes":
    """Draw a metric of each job of a sweep over one parameter; by default the first of each."""
    parameter, metric = parameter or _first(found.parameters), metric or _first(found.metrics)
    _known([parameter], found.parameters, "parameter")
    _known([metric], found.metrics, "metric")
    frame, axes = frames.sweep_frame(found).dropna(subset=[metric]), _axes()
    values = frame[parameter]
    axes.scatter(values if values.map(_is_number).all() else values.astype(str), frame[metric].astype(float))
    axes.set(xlabel=parameter, ylabel=metric)
    return axes


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _first(names: Sequence[str]) -> str:
    if not names:
        raise UndersongError("no job of this sweep was evaluated yet, so there is nothing to draw")
    return names[0]


def _known(asked: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    for name in asked:
        if name not in known:
            raise UndersongError(f"there is no {what} {name!r}{hint(name, known)}")
    return list(asked)


def _axes() -> "Axes":
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise UndersongError("plots need matplotlib, which is not installed", remedy=INSTALL) from error
    axes: Axes = pyplot.subplots()[1]
    return axes
