"""What one round of a job costs in privacy: the terms of its manifest, and the events that accountants compose.

The neighbour relation is everywhere the same: one unit's contribution added or removed. A unit is a site (all that it
sends) or a record (one row at one site); costs of different units never add up.
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import Field, TypeAdapter, model_validator

from undersong.shared.wire.forms import Document, is_empty

NEIGHBOURS: Final = "add or remove one"
"""The neighbour relation of every claim, for ledgers and datasheets."""
MAX_EPSILON: Final = 1000.0
MIN_NOISE: Final = 0.001
MAX_NOISE: Final = 10_000.0
MAX_RATE: Final = 2.0
"""The fastest that a clip norm moves: by a factor of exp(2) where all updates are on one side of it."""


class PrivacyUnit(StrEnum):
    """Whose contribution is protected: all that one site sends, or one record of it."""

    SITE = "site"
    RECORD = "record"


class PrivacyModel(StrEnum):
    """Who adds the noise.

    SERVER: each of two servers, so that one honest server suffices. DISTRIBUTED: every site a part of it, before its
    update is masked. LOCAL: every site enough for itself. RECORD: the recipe at each step of training. NONE: no party.
    """

    SERVER = "server"
    DISTRIBUTED = "distributed"
    LOCAL = "local"
    RECORD = "record"
    NONE = "none"


MOST_COUNT: Final = 10**9
MIN_DELTA: Final = 1e-12
"""Noise is drawn to within 2**-62 for each number (`undersong.shared.privacy.noise`), so no less can be claimed."""
Count = Annotated[int, Field(ge=1, le=MOST_COUNT, strict=True)]
Noise = Annotated[float, Field(ge=MIN_NOISE, le=MAX_NOISE, strict=True)]
Delta = Annotated[float, Field(gt=0, lt=1, strict=True)]


MOST_SEPARATION: Final = 256
MOST_ROWS: Final = 2048
"""Rows of correlated noise in a job: each is computed from all before it."""
Row = Annotated[int, Field(ge=1, le=MOST_ROWS, strict=True)]


class GaussianEvent(Document):
    """`count` Gaussian mechanisms whose noise has a standard deviation of `noise_multiplier` sensitivities.

    row: of noise that is correlated over a job's rounds, the row that the round's sum got; the cost is that of the one
    participation, and holds where the unit takes part in no row of the job that is nearer than the separation.
    """

    event: Literal["gaussian"] = "gaussian"
    noise_multiplier: Noise
    count: Count = 1
    row: Row | None = Field(default=None, exclude_if=is_empty)


class ZeroConcentratedEvent(Document):
    """`count` mechanisms that are `rho`-zero-concentrated differentially private (Bun and Steinke 2016)."""

    event: Literal["zcdp"] = "zcdp"
    rho: float = Field(gt=0, le=10**6, strict=True)
    count: Count = 1


class PoissonGaussianEvent(Document):
    """`count` Gaussian mechanisms, each over a sample in which every record is with `probability`, independently.

    Only for sampling that is enforced where the records are: by the recipe's own sampler.
    """

    event: Literal["poisson-gaussian"] = "poisson-gaussian"
    noise_multiplier: Noise
    probability: float = Field(gt=0, le=1, strict=True)
    count: Count = 1


class NonPrivateEvent(Document):
    """An exact answer: no noise, and so no bound."""

    event: Literal["non-private"] = "non-private"


PrivacyEvent = GaussianEvent | ZeroConcentratedEvent | PoissonGaussianEvent | NonPrivateEvent
_EVENT: Final[TypeAdapter[PrivacyEvent]] = TypeAdapter(Annotated[PrivacyEvent, Field(discriminator="event")])


def privacy_event(document: object) -> PrivacyEvent:
    """Return a stored event's document as its kind; raises pydantic's ValidationError."""
    return _EVENT.validate_python(document)


class NoisySteps(Document):
    """The steps of training that each site's recipe takes in a round whose noise protects records.

    In each of `count` steps every record is in the sample with `probability`, independently; its gradient is clipped to
    an L2 norm of `clip_norm`; their sum gets noise of the terms' `noise_multiplier` clip norms. All sites take equally
    many steps with the same probability, whatever their numbers of records, so that all of them promise the same.
    """

    count: Count
    probability: float = Field(gt=0, le=1, strict=True)
    clip_norm: float = Field(gt=0, le=1e9, strict=True)


class AdaptiveClip(Document):
    """How the clip norm of a job's rounds moves: towards the `quantile` of the norms of updates, from `start`.

    After each round it is multiplied by exp(-rate * (share - quantile)), where share is the noisy share of updates that
    were within it (`undersong.shared.privacy.clipping`).
    """

    quantile: float = Field(gt=0, lt=1, strict=True)
    rate: float = Field(gt=0, le=MAX_RATE, strict=True)
    start: float = Field(gt=0, strict=True)


RECORD_NOISE: Final = "record_noise"
"""The name under which a recipe's context holds the noise that it must add to protect records."""


class RecordNoise(NamedTuple):
    """What a recipe has to know of a round's terms: `NoisySteps` and the noise multiplier, as numbers."""

    noise_multiplier: float
    clip_norm: float
    probability: float
    steps: float

    @property
    def event(self) -> PoissonGaussianEvent:
        """What steps of this kind cost."""
        return PoissonGaussianEvent(
            noise_multiplier=self.noise_multiplier, probability=self.probability, count=int(self.steps)
        )


class CorrelatedNoise(Document):
    """Noise that is correlated over the rounds of a job, whose sites take turns (the matrix mechanism).

    Between two rows in which a site takes part are at least `separation` rows, which is also the width of the band, and
    it takes part `participations` times at most.
    """

    separation: int = Field(ge=2, le=MOST_SEPARATION, strict=True)
    participations: int = Field(ge=1, le=MOST_ROWS, strict=True)

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if self.rows > MOST_ROWS:
            raise ValueError(f"correlated noise has at most {MOST_ROWS} rows")
        return self

    @property
    def rows(self) -> int:
        """How many rows a job has at most: every site has its turn `participations` times in them."""
        return self.separation * self.participations


class PrivacyTerms(Document):
    """What a round promises the units whose data it uses.

    noise_multiplier: standard deviation of the noise on the sum, as it is accounted for, in units of the sensitivity
    (which follows from the round's encoding). min_sites: the fewest sites whose noise is counted on: the minimum
    cohort less those assumed to collude; a larger cohort earns no credit. rounds: how many such rounds the whole job
    has. epsilon: what they cost together at `delta`, as the coordinator computed it; a site computes it for itself.
    steps: what a recipe does that adds noise as it trains; `noise_multiplier` is then about each step. adaptive_clip:
    how the clip norm moves from round to round; None where it stays. correlated: how the servers' noise is correlated
    over rounds; `noise_multiplier` is then about one participation (see `undersong.shared.privacy.toeplitz`), and
    epsilon about as many as one site may have.
    """

    model: PrivacyModel
    unit: PrivacyUnit
    noise_multiplier: Noise
    delta: Delta
    epsilon: float = Field(gt=0, le=MAX_EPSILON, strict=True)
    rounds: int = Field(ge=1, le=10**6, strict=True)
    min_sites: int = Field(ge=1, strict=True)
    colluding: int = Field(default=0, ge=0, strict=True)
    steps: NoisySteps | None = Field(default=None, exclude_if=is_empty)
    adaptive_clip: AdaptiveClip | None = Field(default=None, exclude_if=is_empty)
    correlated: CorrelatedNoise | None = Field(default=None, exclude_if=is_empty)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.model is PrivacyModel.NONE:
            raise ValueError("a round without noise has no privacy terms")
        if self.model is PrivacyModel.RECORD and self.unit is not PrivacyUnit.RECORD:
            raise ValueError("noise inside a recipe protects records")
        if (self.model is PrivacyModel.RECORD) != (self.steps is not None):
            raise ValueError("steps belong to noise inside a recipe, and to no other")
        if self.adaptive_clip is not None and self.unit is not PrivacyUnit.SITE:
            raise ValueError("an adaptive clip norm is one of sites' updates")
        if self.correlated is not None and self.model is not PrivacyModel.SERVER:
            raise ValueError("only servers' noise is correlated over rounds")
        if self.correlated is not None and self.adaptive_clip is not None:
            raise ValueError("noise that is correlated over rounds has one grid, and so one clip norm")
        if not math.isfinite(self.epsilon):
            raise ValueError("epsilon is not a finite number")
        return self

    @property
    def charged(self) -> int:
        """In how many of the rounds one unit takes part at most; `epsilon` is what these cost together."""
        return self.rounds if self.correlated is None else self.correlated.participations

    @property
    def record_noise(self) -> RecordNoise | None:
        """What a recipe is told that adds noise as it trains; None where another party adds it."""
        if self.steps is None:
            return None
        steps = self.steps
        return RecordNoise(self.noise_multiplier, steps.clip_norm, steps.probability, float(steps.count))


_WHO: Final = {
    PrivacyModel.SERVER: "each of two servers adds it",
    PrivacyModel.DISTRIBUTED: "every site adds a part, counted on of at least {min_sites}",
    PrivacyModel.LOCAL: "every site adds enough for itself",
    PrivacyModel.RECORD: "the recipe adds it in {count} steps a round, over samples of {probability:.3g} of all",
}


def terms_sentence(terms: Mapping[str, Any]) -> str:
    """Return what a job's noise promises, for people; `terms` is the document of `PrivacyTerms`."""
    rounds = int(terms["rounds"])
    span = "in its one round" if rounds == 1 else f"over all {rounds} rounds"
    who = _WHO[PrivacyModel(terms["model"])].format(**{**terms, **(terms.get("steps") or {})})
    if (turns := terms.get("correlated")) is not None:
        who += (
            f" correlated over rounds (matrix mechanism), sites take turns of {turns['separation']} rounds, at most "
            f"{turns['participations']} of them"
        )
    colluding = f", {terms['colluding']} assumed to collude" if terms.get("colluding") else ""
    clip = terms.get("adaptive_clip")
    moving = (
        ""
        if not clip
        else (f"; the clip norm moves from {clip['start']:.4g} to the {clip['quantile']:g} quantile of updates' norms")
    )
    return (
        f"epsilon {terms['epsilon']:.4g} at delta {terms['delta']:g} for each {terms['unit']} {span}: "
        f"noise of {terms['noise_multiplier']:.4g} sensitivities, {who}{colluding}{moving}"
    )
