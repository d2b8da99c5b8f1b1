"""Answers as pandas data frames, for notebooks. pandas is imported when a frame is asked for."""

import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from undersong.errors import UndersongError

if TYPE_CHECKING:
    import pandas as pd

    from undersong.client.types import JobComparison, Round, Sweep
    from undersong.shared.wire.columns import Column

T = TypeVar("T")
TOLD: Final = ("number", "kind", "phase", "attempt", "got", "reason", "created_at", "finished_at", "id")


def asked(client: Any, call: Callable[[Any], Any], frame: Callable[[Any], T]) -> Any:
    """Return a frame of what a client answers; a coroutine of it where the client is the asynchronous one."""
    if client is None:
        raise UndersongError("this object was not asked for by a client", remedy="client.job(ID) returns one that was")
    answer = call(client)
    return _later(answer, frame) if inspect.isawaitable(answer) else frame(answer)


async def _later(answer: Awaitable[Any], frame: Callable[[Any], T]) -> T:
    return frame(await answer)


def rounds_frame(rounds: Sequence["Round"]) -> "pd.DataFrame":
    """Return a row for each round: its number, kind and phase, sites asked and updates that came, and seconds."""
    rows = [
        {**{name: getattr(each, name) for name in TOLD}, "cohort": len(each.cohort), "seconds": _seconds(each)}
        for each in rounds
    ]
    return _pandas().DataFrame(rows, columns=[*TOLD, "cohort", "seconds"])


def _seconds(each: "Round") -> float | None:
    if each.created_at is None or each.finished_at is None:
        return None
    return (each.finished_at - each.created_at).total_seconds()


def curves_frame(comparison: "JobComparison") -> "pd.DataFrame":
    """Return a row for each evaluation of each job: round, seconds, bytes of updates, and its metrics."""
    rows = []
    for job in comparison.jobs:
        curve = job.curve
        for at, number in enumerate(curve.rounds):
            told = {"job": job.name, "round": number, "seconds": curve.seconds[at]}
            told["update_bytes"] = None if curve.update_bytes is None else curve.update_bytes[at]
            rows.append({**told, **{name: values[at] for name, values in curve.metrics.items()}, "job_id": job.id})
    head = ["job", "round", "seconds", "update_bytes"]
    return _pandas().DataFrame(rows, columns=[*head, *comparison.metrics, "job_id"])


def sweep_frame(sweep: "Sweep") -> "pd.DataFrame":
    """Return a row for each job of a sweep: what it varies, its state and its newest metrics."""
    rows = [
        {"place": job.place, **dict(zip(sweep.parameters, job.values, strict=True)), "state": job.state}
        | {name: job.metrics.get(name) for name in sweep.metrics}
        | {"job_id": job.job_id}
        for job in sweep.jobs
    ]
    return _pandas().DataFrame(rows, columns=["place", *sweep.parameters, "state", *sweep.metrics, "job_id"])


def is_frame(rows: object) -> bool:
    """Tell whether it is a data frame of pandas, without importing pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(rows, pandas.DataFrame)


def columns_of_frame(frame: "pd.DataFrame", columns: "Sequence[Column]") -> dict[str, Any]:
    """Return the cells of a model's columns; raises `RowsInvalid` where one is not there, or there twice."""
    from undersong.recipes.rows import check_names, columns_twice

    names = [name for name in frame.columns if isinstance(name, str)]
    check_names(names, columns)
    columns_twice(names, columns)
    return {column.name: _cells(frame[column.name], column) for column in columns}


def _cells(series: Any, column: "Column") -> Any:
    """Return numbers as an array, moments of a number column as days since 1970-01-01 (UTC), others as objects."""
    import numpy as np

    from undersong.recipes.rows import plain

    if column.type == "number" and series.dtype.kind == "M":
        moments = series.dt.tz_convert("UTC").dt.tz_localize(None) if series.dt.tz is not None else series
        stamps = moments.to_numpy("datetime64[us]")
        return np.where(np.isnat(stamps), np.nan, stamps.astype(np.int64) / 86_400e6)
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "iufb":
        return series.to_numpy()
    return [None if absent else plain(value) for value, absent in zip(series.tolist(), series.isna(), strict=True)]


def predictions_frame(answers: "Sequence[Mapping[str, Any]]", index: Any, heads: Sequence[str]) -> "pd.DataFrame":
    """Return a row for each prediction, with the index of the rows that were predicted."""
    rows = [table_row(answer) for answer in answers]
    return _pandas().DataFrame(rows, columns=list(heads), index=index)


def table_row(answer: "Mapping[str, Any]") -> list[Any]:
    """Return a prediction as a row: the class and each class's probability, or the number."""
    if "class" in answer:
        return [answer["class"], *answer["probabilities"].values()]
    return list(answer.values())


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise UndersongError("data frames need pandas, which is not installed", remedy="pip install pandas") from error
    return pd
