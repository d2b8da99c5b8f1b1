"""What a scientist may ask for: the job document, with safe defaults. Unknown fields are refused."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from shared.ids import FederationId, VersionId
from shared.secagg.engines import DEFAULT_ENGINE
from shared.statistics.queries import Query

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,99}$")]
Categories = dict[Name, Annotated[tuple[Name, ...], Field(min_length=1, max_length=10_000)]]
MIN_COHORT: Final = 3
"""With two sites, each could subtract itself from the sum."""
MIN_CELL: Final = 5
"""Counts below this are not shown."""


class Part(BaseModel):
    """A part of the job document."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelPart(Part):
    """The registry model that gets the results; `version_id` starts from that version instead of a fresh one."""

    name: ModelName
    version_id: VersionId | None = None


class RecipePart(Part):
    """The recipe that runs at the sites, and its parameters."""

    name: Name
    params: dict[str, JsonValue] = Field(default_factory=dict)


class DataPart(Part):
    """The data set by its name at the sites.

    Without `features`, every column that all sites have and the recipe takes, but the label and those of `exclude`.
    `categories` lists a column's categories where the sites' own lists differ: each site must list some of these.
    """

    dataset: Name
    features: tuple[Name, ...] | None = Field(default=None, min_length=1)
    label: Name | None = None
    exclude: tuple[Name, ...] = ()
    categories: Categories = Field(default_factory=dict)


class StrategyPart(Part):
    """How sums become models; `weighting` by examples, or the same weight for every site."""

    name: Name = "fedavg"
    params: dict[str, JsonValue] = Field(default_factory=dict)
    weighting: Literal["examples", "equal"] = "examples"


class CohortPart(Part):
    """Which sites take part in a round. `allow_small` is needed for fewer than three."""

    min: int = Field(default=MIN_COHORT, ge=1, le=100_000, strict=True)
    max: int | None = Field(default=None, ge=1, le=100_000, strict=True)
    fraction: float = Field(default=1.0, gt=0, le=1, strict=True)
    seed: int = Field(default=0, ge=0, lt=2**53, strict=True)
    allow_small: bool = Field(default=False, strict=True)


class UpdatePart(Part):
    """How an update becomes integers.

    `clip_norm` limits its L2 norm; without it each coordinate is limited to ±`bound`. A site's weight is its examples
    over `weight_unit`, from 1 to `max_weight`; without a unit it is chosen so that the largest site fits.
    `noise_multiplier`: each of an engine's two servers adds noise of that many clip norms to a round's sum.
    `norm_equality_proofs`: proofs of norm equality in a report, where norms are proved; without it two in rounds of
    fewer than 16 sites, else one.
    """

    clip_norm: float | None = Field(default=None, gt=0, le=1e9, strict=True)
    bound: float = Field(default=16.0, gt=0, le=1e9, strict=True)
    max_weight: int = Field(default=256, ge=1, le=2**16, strict=True)
    weight_unit: int | None = Field(default=None, ge=1, le=2**53, strict=True)
    modulus_bits: Literal[16, 24, 32, 64] = 32
    noise_multiplier: float | None = Field(default=None, ge=0.001, le=15, strict=True)
    norm_equality_proofs: int | None = Field(default=None, ge=1, le=2, strict=True)


class EarlyStopPart(Part):
    """Stop when `metric` has not improved during `patience` evaluations."""

    metric: Name
    mode: Literal["min", "max"] = "max"
    patience: int = Field(default=3, ge=1, le=10_000, strict=True)


class EvaluationPart(Part):
    """Evaluate after every `every`-th round and after the last one; 0 is never."""

    every: int = Field(default=1, ge=0, le=100_000, strict=True)
    early_stop: EarlyStopPart | None = None


class DeadlinePart(Part):
    """How long a round may take; without it, the coordinator's default."""

    round_s: float | None = Field(default=None, ge=1, le=7 * 86_400, strict=True)


class JobSpec(Part):
    """A job as a scientist writes it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [
                {
                    "name": "heart-disease",
                    "federation_id": "fed_01m0dwh5mdaecm6yfk3d8y9c8v",
                    "model": {"name": "heart"},
                    "recipe": {"name": "tabular", "params": {"model": "logistic"}},
                    "data": {"dataset": "heart", "label": "disease"},
                    "rounds": 10,
                }
            ]
        },
    )

    kind: Literal["train"] = "train"
    name: Name
    federation_id: FederationId
    model: ModelPart
    recipe: RecipePart
    data: DataPart
    rounds: int = Field(ge=1, le=100_000, strict=True)
    strategy: StrategyPart = Field(default_factory=StrategyPart)
    cohort: CohortPart = Field(default_factory=CohortPart)
    engine: Name = DEFAULT_ENGINE
    update: UpdatePart = Field(default_factory=UpdatePart)
    evaluation: EvaluationPart = Field(default_factory=EvaluationPart)
    deadlines: DeadlinePart = Field(default_factory=DeadlinePart)


class StatisticsData(Part):
    """The data set by its name at the sites; the queries name the columns. `categories` as for training."""

    dataset: Name
    categories: Categories = Field(default_factory=dict)


class StatisticsSpec(Part):
    """A job that asks, and trains nothing. `min_cell`: counts below it, and answers from fewer rows, are not shown."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [
                {
                    "kind": "statistics",
                    "name": "heart-figures",
                    "federation_id": "fed_01m0dwh5mdaecm6yfk3d8y9c8v",
                    "data": {"dataset": "heart"},
                    "queries": [
                        {"query": "mean", "columns": ["age", "chol"]},
                        {"query": "histogram", "column": "age", "bins": 10},
                    ],
                }
            ]
        },
    )

    kind: Literal["statistics"]
    name: Name
    federation_id: FederationId
    data: StatisticsData
    queries: tuple[Annotated[Query, Field(discriminator="query")], ...] = Field(min_length=1, max_length=50)
    cohort: CohortPart = Field(default_factory=CohortPart)
    engine: Name = DEFAULT_ENGINE
    min_cell: int = Field(default=MIN_CELL, ge=1, le=10**6, strict=True)
    deadlines: DeadlinePart = Field(default_factory=DeadlinePart)


AnySpec = JobSpec | StatisticsSpec


def spec_of(document: Mapping[str, Any]) -> AnySpec:
    """A stored job document as its kind."""
    form = StatisticsSpec if document.get("kind") == "statistics" else JobSpec
    return form.model_validate(document)
