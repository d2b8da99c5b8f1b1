"""Predictions for checked rows, and counts of what came: no row is kept, and none is written to a log."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from undersong.recipes.protocol import RecipeError
from undersong.recipes.rows import RowsInvalid
from undersong.services.inference.batching import Batcher, QueueFull
from undersong.services.inference.domain.drift import DriftCounts
from undersong.services.inference.domain.rows import CheckedRows, Row, TooManyRows, checked, path_of
from undersong.services.inference.serving import PREDICTION, ServedVersion
from undersong.shared.clock import utc_now
from undersong.shared.errors import FieldError, Invalid
from undersong.shared.telemetry.metrics import INFERENCE_ROWS
from undersong.shared.wire.profiles import Task

Answer = dict[str, Any]


class PredictionNotFinite(Invalid):
    """The model's answer to a row is no finite number."""


@dataclass
class Predictions:
    """The use cases of one version."""

    version: ServedVersion
    batcher: Batcher
    drift: DriftCounts
    max_rows: int
    since: datetime = field(default_factory=utc_now)

    async def predict(self, rows: Sequence[Row]) -> list[Answer]:
        """Return an answer for each row, in order, and count the rows.

        Raises TooManyRows, RowsInvalid, QueueFull, PredictionNotFinite, and RecipeError where the model refuses rows.
        """
        try:
            found = self._checked(rows)
            answers = await self.batcher.ask(found.columns, found.count)
            _check_finite(answers)
        except (TooManyRows, RowsInvalid, QueueFull, RecipeError, PredictionNotFinite) as refusal:
            INFERENCE_ROWS.labels(refusal.slug()).inc(len(rows))
            raise
        INFERENCE_ROWS.labels("predicted").inc(len(rows))
        self.drift.add({**found.numbers, PREDICTION: self._values(answers)}, found.count)
        return answers

    def _checked(self, rows: Sequence[Row]) -> CheckedRows:
        if len(rows) > self.max_rows:
            raise TooManyRows(f"{len(rows)} rows came, at most {self.max_rows} are allowed: send several requests")
        return checked(self.version.columns, rows)

    def _values(self, answers: Sequence[Answer]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return what is counted of the answers: the second class's probability, the class's position, or the value."""
        task = self.version.predictor.task
        if task is Task.BINARY:
            return np.array([list(answer["probabilities"].values())[1] for answer in answers])
        if task is Task.MULTICLASS:
            return np.array([list(answer["probabilities"]).index(answer["class"]) for answer in answers], np.float64)
        name = "value" if task is Task.REGRESSION else "log_hazard_ratio"
        return np.array([answer[name] for answer in answers])


def _check_finite(answers: Sequence[Answer]) -> None:
    faults = [
        FieldError(
            path_of(place), "the model's answer is no finite number: look for values far outside those trained on"
        )
        for place, answer in enumerate(answers)
        if not all(map(math.isfinite, _numbers(answer)))
    ]
    if faults:
        raise PredictionNotFinite(f"{len(faults)} row(s) have no finite prediction", errors=faults[:100])


def _numbers(answer: Mapping[str, Any]) -> list[float]:
    return [*answer.get("probabilities", {}).values(), *(v for v in answer.values() if isinstance(v, float))]
