"""The parts of the job document: what each setting means, its limits and its safe default."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from undersong.shared.ids import VersionId, looks_like_id
from undersong.shared.learning.strategies import STRATEGIES
from undersong.shared.wire.compression import LEAST_KEPT, Compression
from undersong.shared.wire.manifest import EvaluatedPart
from undersong.shared.wire.privacy import MAX_EPSILON, MAX_NOISE, MAX_RATE, MIN_NOISE, MOST_SEPARATION

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


def _told_apart(name: str) -> str:
    if looks_like_id(name):
        raise ValueError("a name must not have the form of an id: commands take both")
    if name != name.strip() or not name.isprintable():
        raise ValueError("a name has no blanks at its ends, and no characters that cannot be seen")
    return name


NewName = Annotated[Name, AfterValidator(_told_apart)]
"""The name of something new, which people tell from others by it."""
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,99}$")]
Listed = Annotated[tuple[Name, ...], Field(min_length=1, max_length=10_000)]
Categories = dict[Name, Listed]
UNION: Final = "union"
MIN_COHORT: Final = 3
"""With two sites, each could subtract itself from the sum."""
MIN_CELL: Final = 5
"""Counts below this are not shown."""


class Part(BaseModel):
    """A part of the job document."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelPart(Part):
    """The registry's model that gets the results."""

    name: ModelName = Field(description="The model's name in the registry; created with its first version")
    version_id: VersionId | None = Field(
        default=None, description="The version to start from, by its id; without one a site makes a fresh model"
    )


class RecipePart(Part):
    """The recipe that runs at the sites."""

    name: Name = Field(description="The recipe's name as the sites have it: `tabular`, `image`, or one of their own")
    params: dict[str, JsonValue] = Field(
        default_factory=dict, description="The recipe's parameters; its schema says which, with their defaults"
    )


class FoldPart(Part):
    """One fold of a cross-validation by hash, as `split_seed` and, where it has one, the column of the split say."""

    number: int = Field(ge=1, le=100, strict=True, description="Which fold is left out of training, from 1")
    of: int = Field(ge=2, le=100, strict=True, description="How many folds the rows are divided into")


class DataPart(Part):
    """The data that the sites read."""

    dataset: Name = Field(description="The data set's name in the sites' `datasets.yaml`")
    features: tuple[Name, ...] | None = Field(
        default=None,
        min_length=1,
        description="The input columns; without it every column that all sites have and the recipe takes, but the "
        "label and those of `exclude`",
    )
    label: Name | None = Field(
        default=None, description="The column that the model predicts; without it the label that the sites declare"
    )
    exclude: tuple[Name, ...] = Field(default=(), description="Columns to leave out where `features` is not given")
    categories: dict[Name, Listed | Literal["union"]] = Field(
        default_factory=dict,
        description="A column's categories in order, where the sites' own lists differ: each site must list some of "
        "these; `union` takes all that any site lists",
    )
    fold: FoldPart | None = Field(
        default=None,
        description="Train without this fold of the rows outside of the test, and evaluate on it; a job for each fold",
    )


class StrategyPart(Part):
    """How the sum of a round's updates becomes the next model."""

    name: Name = Field(
        default="fedavg", description="The server optimiser", json_schema_extra={"enum": [*sorted(STRATEGIES)]}
    )
    params: dict[str, JsonValue] = Field(
        default_factory=dict, description="Numbers for the optimiser; the table of strategies says which"
    )
    weighting: Literal["examples", "equal"] = Field(
        default="examples", description="A site's weight in the mean: its number of examples, or one for every site"
    )


class CohortPart(Part):
    """Which sites take part in a round."""

    min: int = Field(
        default=MIN_COHORT,
        ge=1,
        le=100_000,
        strict=True,
        description="The fewest sites whose updates may be summed; a round with fewer fails",
    )
    max: int | None = Field(
        default=None, ge=1, le=100_000, strict=True, description="The most sites asked in a round; without it all"
    )
    enough: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        strict=True,
        description="A round of training ends once so many sites' updates have come, and leaves out those that are "
        "still on their way; without it the round waits for all, at most until its deadline",
    )
    fraction: float = Field(
        default=1.0, gt=0, le=1, strict=True, description="The share of the eligible sites asked in a round"
    )
    seed: int = Field(default=0, ge=0, lt=2**53, strict=True, description="Seed of the choice of sites")
    allow_small: bool = Field(
        default=False,
        strict=True,
        description="Needed for `min` below three: with two sites, each learns the other's update from the sum",
    )


class UpdatePart(Part):
    """How an update becomes integers that can be summed in secret."""

    clip_norm: float | None = Field(
        default=None,
        gt=0,
        le=1e9,
        strict=True,
        description="Limit of an update's L2 norm; without it each coordinate is limited to ±`bound`",
    )
    bound: float = Field(
        default=16.0, gt=0, le=1e9, strict=True, description="Largest absolute value of a coordinate that is encoded"
    )
    max_weight: int = Field(default=256, ge=1, le=2**16, strict=True, description="The largest weight of a site")
    weight_unit: int | None = Field(
        default=None,
        ge=1,
        le=2**53,
        strict=True,
        description="Examples for one unit of weight; without it chosen so that the largest site has `max_weight`",
    )
    modulus_bits: Literal[16, 24, 32, 64] = Field(
        default=32, description="Bits of each summed integer: more are more exact, and more to upload"
    )
    rotation: bool = Field(
        default=False,
        strict=True,
        description="Rotate what is sent at random, the same for all sites, so that fewer bits are as exact; needs "
        "`clip_norm`",
    )
    keep: float | None = Field(
        default=None,
        ge=LEAST_KEPT,
        lt=1,
        strict=True,
        description="The share of the model's parameters that is sent, drawn anew in each round, the same for all "
        "sites; without it all are",
    )
    error_feedback: bool = Field(
        default=False,
        strict=True,
        description="Each site keeps what its updates left out, and adds it to its next one",
    )
    norm_equality_proofs: int | None = Field(
        default=None,
        ge=1,
        le=2,
        strict=True,
        description="Where norms are proved: proofs of norm equality in a report; without it two in rounds of fewer "
        "than 16 sites, else one",
    )

    @property
    def compression(self) -> Compression | None:
        """What is done to updates before they are encoded; None where nothing is asked."""
        if not (self.rotation or self.keep is not None or self.error_feedback):
            return None
        return Compression(rotation=self.rotation, keep=self.keep, error_feedback=self.error_feedback)


class EarlyStopPart(Part):
    """End the job with success when a metric no longer improves."""

    metric: Name = Field(description="A metric of the job's task, such as `loss` or `auc`")
    mode: Literal["min", "max"] = Field(default="max", description="Whether smaller or larger values are better")
    patience: int = Field(
        default=3, ge=1, le=10_000, strict=True, description="Evaluations without improvement until the job ends"
    )


class EvaluationPart(Part):
    """When the model is evaluated, and on which of the sites' rows."""

    every: int = Field(
        default=1,
        ge=0,
        le=100_000,
        strict=True,
        description="Rounds between two evaluations; there is one after the last round as well. 0: none at all",
    )
    early_stop: EarlyStopPart | None = Field(default=None, description="Without it all rounds are run")
    part: EvaluatedPart | None = Field(
        default=None,
        description="The rows that are evaluated on: without it those of the test, with `data.fold` those of the fold; "
        "`all` only with kind evaluate",
    )
    sites: bool = Field(
        default=False,
        strict=True,
        description="Ask sites for their own metrics in the clear: those answer whose policies have `site_metrics`",
    )
    threshold: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        strict=True,
        description="Task binary: the score from which a row is said to be positive, without it 0.5. Choose it on "
        "other rows than the test's: evaluations of the validation part or of a fold tell `best_threshold`",
    )
    by: Name | None = Field(
        default=None, description="A category column, for each of whose values metrics are told too"
    )
    least_rows: int = Field(
        default=20,
        ge=5,
        le=10**6,
        strict=True,
        description="Metrics of a group of fewer rows are not told, nor points of curves",
    )


class DeadlinePart(Part):
    """How long a round may take."""

    round_s: float | None = Field(
        default=None,
        ge=1,
        le=7 * 86_400,
        strict=True,
        description="Seconds for a round; without it the coordinator's `round_deadline_s`",
    )


class AdaptiveClipPart(Part):
    """Let the limit of an update's norm follow the norms of updates, from `update.clip_norm` on."""

    quantile: float = Field(
        default=0.5, gt=0, lt=1, strict=True, description="The share of updates that should be within the limit"
    )
    rate: float = Field(
        default=0.2,
        gt=0,
        le=MAX_RATE,
        strict=True,
        description="How fast it moves: after a round by a factor of exp(-rate · (share within it - quantile))",
    )


class PrivacyPart(Part):
    """What noise bounds of each site, or of each record: differential privacy. Counts of all rounds together."""

    model: Literal["server", "distributed", "local", "record", "none"] = Field(
        default="none",
        description="Who adds the noise. `server`: each of two servers, enough alone; `distributed`: every site a part "
        "of it; `local`: every site enough for itself; `record`: the recipe at each step; `none`: sums are exact",
    )
    epsilon: float | None = Field(
        default=None,
        gt=0,
        le=MAX_EPSILON,
        strict=True,
        description="What the whole job may cost; the noise follows. Give it or `noise_multiplier`",
    )
    noise_multiplier: float | None = Field(
        default=None,
        ge=MIN_NOISE,
        le=MAX_NOISE,
        strict=True,
        description="Standard deviation of the noise on each sum, in units of what one site (or one record) can change",
    )
    delta: float = Field(
        default=1e-6,
        gt=0,
        lt=1,
        strict=True,
        description="The probability that epsilon leaves out; less than 1 / units protected",
    )
    unit: Literal["site", "record"] | None = Field(
        default=None,
        description="Whose contribution is protected, as follows from the rest: a record's in statistics and with "
        "`record`, else a site's",
    )
    colluding: int = Field(
        default=0,
        ge=0,
        le=100_000,
        strict=True,
        description="Sites assumed to tell others their own noise: theirs is not counted on",
    )
    clip_norm: float | None = Field(
        default=None,
        gt=0,
        le=1e9,
        strict=True,
        description="With `record`: limit of the L2 norm of each record's gradient; without it 1.0. That of a site's "
        "update is `update.clip_norm`",
    )
    adaptive_clip: AdaptiveClipPart | None = Field(
        default=None,
        description="With `server`, `distributed` or `local`, in training: `update.clip_norm` is where the limit of an "
        "update's norm starts, and each round moves it; without it the limit stays",
    )

    mechanism: Literal["independent", "matrix"] = Field(
        default="independent",
        description="Whether each round's noise is its own, or, with `server`, correlated over rounds (`matrix`): then "
        "sites take turns, and what rounds add up to has less noise",
    )
    separation: int | None = Field(
        default=None,
        ge=2,
        le=MOST_SEPARATION,
        strict=True,
        description="With `matrix`: rounds from one participation of a site to its next; in each round that share of "
        "the sites takes part",
    )

    @property
    def noisy(self) -> bool:
        """Whether sums get noise."""
        return self.model != "none"


class StatisticsData(Part):
    """The data that the sites count; the queries name the columns."""

    dataset: Name = Field(description="The data set's name in the sites' `datasets.yaml`")
    categories: Categories = Field(
        default_factory=dict, description="A column's categories in order, where the sites' own lists differ"
    )
