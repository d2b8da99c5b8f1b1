"""What the inference service takes and answers."""

from datetime import datetime
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from undersong.services.inference.domain.drift import ColumnBins
from undersong.services.inference.predictions import Predictions
from undersong.services.inference.serving import PREDICTION, ServedVersion
from undersong.services.inference.settings import InferenceSettings
from undersong.shared.transparency.audit import CheckResult
from undersong.shared.wire.columns import Column, ColumnType
from undersong.shared.wire.profiles import Task


class RowsAsked(BaseModel):
    """Rows to predict."""

    model_config = ConfigDict(extra="forbid")

    rows: list[Any] = Field(  # looked at after they are counted: many cost nothing before they are refused
        min_length=1,
        json_schema_extra={"items": {"type": "object"}},
        description="Each with every column of the model (`GET /v1/model`): a number, a category's text, a text, or an "
        "image as nested lists of pixels from 0 to 1; null where a value is not known",
        examples=[[{"age": 63, "sex": "male"}]],
    )


class RowPrediction(BaseModel):
    """What the model says of one row."""

    model_config = ConfigDict(serialize_by_alias=True)

    class_: str | None = Field(None, alias="class", description="Of a classifier: the most probable class")
    probabilities: dict[str, float] | None = Field(None, description="Of a classifier: each class's probability")
    value: float | None = Field(None, description="Of a regression: the value, in the label's own unit")
    log_hazard_ratio: float | None = Field(None, description="Of a survival model: against the average row")


class RowPredictions(BaseModel):
    """Predictions in the order of the rows, and the version that made them."""

    version_id: str
    predictions: list[RowPrediction]

    @classmethod
    def of(cls, version: ServedVersion, answers: list[dict[str, Any]]) -> Self:
        """Return the answers as a document."""
        return cls(
            version_id=version.evidence.id, predictions=[RowPrediction.model_validate(answer) for answer in answers]
        )


class TakenColumn(BaseModel):
    """A column that every row must have."""

    name: str
    type: ColumnType
    categories: list[str] | None = None
    shape: list[int] | None = Field(None, description="Of images: channels, height, width")

    @classmethod
    def of(cls, column: Column) -> Self:
        """Return what callers need to know of a column."""
        return cls(
            name=column.name,
            type=column.type,
            categories=None if column.categories is None else list(column.categories),
            shape=None if column.shape is None else list(column.shape),
        )


class PassedCheck(BaseModel):
    """A check of the version's evidence that passed at the start."""

    check: str
    sentence: str
    caution: bool = Field(description="Whether a reader should know the sentence nevertheless")

    @classmethod
    def of(cls, found: CheckResult) -> Self:
        """Return a check as a document."""
        return cls(check=found.check, sentence=found.sentence, caution=found.caution)


class ServedModel(BaseModel):
    """The version that is served, what it takes, and why it may be believed."""

    version_id: str
    model_id: str
    content_digest: str
    job_id: str
    recipe: str
    recipe_digest: str
    task: Task
    label: str | None
    classes: list[str]
    columns: list[TakenColumn]
    max_rows: int = Field(description="Most rows of a request")
    max_body_bytes: int = Field(description="Largest body of a request in bytes")
    authority: str = Field(description="Fingerprint of the federation's authority that was pinned")
    checks: list[PassedCheck]

    @classmethod
    def of(cls, version: ServedVersion, settings: InferenceSettings) -> Self:
        """Return the version as a document."""
        plan = version.manifest
        return cls(
            version_id=version.evidence.id,
            model_id=version.evidence.model_id,
            content_digest=version.evidence.content_digest,
            job_id=plan.job_id,
            recipe=plan.recipe.name,
            recipe_digest=plan.recipe.digest,
            task=version.predictor.task,
            label=plan.data.label,
            classes=list(version.predictor.classes),
            columns=[TakenColumn.of(column) for column in version.columns],
            max_rows=settings.max_rows,
            max_body_bytes=settings.max_body_bytes,
            authority=version.authority,
            checks=[PassedCheck.of(found) for found in version.checks],
        )


class BinCounts(BaseModel):
    """Counts of one column, or of the predictions."""

    categories: list[str] = Field(description="Of a category: what `counts` count")
    edges: list[float] = Field(
        description="Of numbers: the edges between which `counts` count, each interval with its lower edge and the "
        "last one with both; empty where the model holds nothing about the column's values"
    )
    counts: list[int]
    below: int
    above: int
    missing: int

    @classmethod
    def of(cls, bins: ColumnBins, counts: npt.NDArray[np.int64]) -> Self:
        """Return counts as a document."""
        *known, below, above, missing = counts.tolist()
        return cls(
            categories=list(bins.categories),
            edges=list(bins.edges),
            counts=known,
            below=below,
            above=above,
            missing=missing,
        )


class HistogramAsked(BaseModel):
    """A query of a statistics job that counts a column of the sites between the same edges."""

    query: Literal["histogram"] = "histogram"
    column: str
    edges: list[float]


class CategoriesAsked(BaseModel):
    """A query of a statistics job that counts a category column of the sites."""

    query: Literal["contingency"] = "contingency"
    columns: list[str]


class DriftReport(BaseModel):
    """Counts of the rows that were predicted since the start of this process; no row and no value."""

    version_id: str
    since: datetime
    rows: int = Field(description="Rows in the counts: those after the last full block are not")
    block_rows: int = Field(description="Rows of a block")
    columns: dict[str, BinCounts]
    predictions: BinCounts = Field(description="Of the second class's probability, the class, or the value")
    queries: list[HistogramAsked | CategoriesAsked] = Field(
        description="For a statistics job that counts the sites' data in the same way"
    )

    @classmethod
    def of(cls, predictions: Predictions) -> Self:
        """Return the counts that are shown."""
        drift = predictions.drift
        features = [each for each in drift.bins if each.name != PREDICTION]
        (said,) = (each for each in drift.bins if each.name == PREDICTION)
        return cls(
            version_id=predictions.version.evidence.id,
            since=predictions.since,
            rows=drift.rows,
            block_rows=drift.block_rows,
            columns={each.name: BinCounts.of(each, drift.shown[each.name]) for each in features},
            predictions=BinCounts.of(said, drift.shown[PREDICTION]),
            queries=[
                CategoriesAsked(columns=[each.name])
                if each.categories
                else HistogramAsked(column=each.name, edges=list(each.edges))
                for each in features
                if each.categories or each.edges
            ],
        )
