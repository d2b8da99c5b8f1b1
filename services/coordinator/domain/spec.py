"""What a scientist may ask for: the job document, with safe defaults. Unknown fields are refused."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, StringConstraints

from undersong.services.coordinator.domain.parts import (
    MIN_CELL,
    CohortPart,
    DataPart,
    DeadlinePart,
    EvaluationPart,
    ModelPart,
    Name,
    Part,
    PrivacyPart,
    RecipePart,
    StatisticsData,
    StrategyPart,
    UpdatePart,
)
from undersong.shared.ids import FederationId
from undersong.shared.learning.strategies import params_at_sites
from undersong.shared.secagg.engines import DEFAULT_ENGINE, ENGINES
from undersong.shared.statistics.queries import Query
from undersong.shared.wire.forms import controls
from undersong.shared.wire.manifest import MOST_REASON


def _visible(text: str) -> str:
    if controls(text):
        raise ValueError("control characters and invisible ones are not allowed, line feeds are")
    return text


_Name = Annotated[Name, Field(description="The job's name, for people; several jobs may share one")]
_Reason = Annotated[
    str,
    StringConstraints(max_length=MOST_REASON),
    AfterValidator(_visible),
    Field(
        description="What the result is for, in a few sentences: sites' owners read it before they consent; up to 2000 "
        "characters"
    ),
]
TAG: Final = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,49}$"
_Tags = Annotated[
    tuple[Annotated[str, StringConstraints(pattern=TAG)], ...],
    Field(max_length=20, description="Words by which lists of jobs are filtered: letters, digits and `_.:-`, up to 50"),
]
_Federation = Annotated[
    FederationId,
    Field(description="The federation's id; command line and client fill it in, and take `federation: NAME` instead"),
]
_Cohort = Annotated[CohortPart, Field(description="Which sites take part in a round")]
_Engine = Annotated[
    Name,
    Field(
        description="The engine that keeps updates secret while they are summed",
        json_schema_extra={"enum": [*sorted(ENGINES)]},
    ),
]
_Deadlines = Annotated[DeadlinePart, Field(description="How long a round may take")]
_Privacy = Annotated[PrivacyPart, Field(description="The noise that bounds what results say of a site or a record")]


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

    kind: Literal["train", "evaluate"] = Field(
        default="train", description="`train`: train a model; `evaluate`: only evaluate the version `model.version_id`"
    )
    name: _Name
    federation_id: _Federation
    model: ModelPart = Field(description="The registry's model that gets the results")
    recipe: RecipePart = Field(description="The recipe that runs at the sites")
    data: DataPart = Field(description="The data that the sites read")
    rounds: int = Field(
        default=0,
        ge=0,
        le=100_000,
        strict=True,
        description="Rounds of training: at least one with kind train, none with kind evaluate",
    )
    strategy: StrategyPart = Field(default_factory=StrategyPart, description="How sums become models")
    cohort: _Cohort = Field(default_factory=CohortPart)
    engine: _Engine = DEFAULT_ENGINE
    update: UpdatePart = Field(default_factory=UpdatePart, description="How an update becomes integers")
    evaluation: EvaluationPart = Field(default_factory=EvaluationPart, description="When the model is evaluated")
    deadlines: _Deadlines = Field(default_factory=DeadlinePart)
    reason: _Reason = ""
    tags: _Tags = ()
    privacy: _Privacy = Field(default_factory=PrivacyPart)

    @property
    def trains(self) -> bool:
        """Whether it trains a model, and does not only evaluate one."""
        return self.kind == "train"

    @property
    def recipe_params(self) -> dict[str, JsonValue]:
        """The recipe's parameters as sites get them: with those that the strategy sets."""
        return {**self.recipe.params, **params_at_sites(self.strategy.name, self.strategy.params)}


class StatisticsSpec(Part):
    """A job that computes statistics, and trains nothing."""

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

    kind: Literal["statistics"] = Field(description="A job that computes statistics")
    name: _Name
    federation_id: _Federation
    data: StatisticsData = Field(description="The data that the sites count")
    queries: tuple[Annotated[Query, Field(discriminator="query")], ...] = Field(
        min_length=1, max_length=50, description="What is asked, in order"
    )
    cohort: _Cohort = Field(default_factory=CohortPart)
    engine: _Engine = DEFAULT_ENGINE
    min_cell: int = Field(
        default=MIN_CELL,
        ge=1,
        le=10**6,
        strict=True,
        description="Counts below it, and answers from fewer rows, are not shown",
    )
    deadlines: _Deadlines = Field(default_factory=DeadlinePart)
    reason: _Reason = ""
    tags: _Tags = ()
    privacy: _Privacy = Field(default_factory=PrivacyPart)


AnySpec = JobSpec | StatisticsSpec


def spec_of(document: Mapping[str, Any]) -> AnySpec:
    """Return a stored job document as its kind."""
    form = StatisticsSpec if document.get("kind") == "statistics" else JobSpec
    return form.model_validate(document)


def document_of(spec: AnySpec) -> dict[str, Any]:
    """Return the shortest job document that says the same: without what is as by default."""
    document = _without_empty(spec.model_dump(mode="json", exclude_defaults=True))
    if isinstance(spec, StatisticsSpec):
        document["queries"] = [query.model_dump(mode="json", exclude_none=True) for query in spec.queries]
    return document


def _without_empty(document: dict[str, Any]) -> dict[str, Any]:
    inner = {name: _without_empty(value) if isinstance(value, dict) else value for name, value in document.items()}
    return {name: value for name, value in inner.items() if value != {}}
