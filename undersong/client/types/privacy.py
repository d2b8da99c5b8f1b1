"""What jobs cost in privacy: planned and spent."""

from typing import Any

from pydantic import Field

from undersong.client.types.base import Answer
from undersong.shared.wire.privacy import terms_sentence


class JobPrivacy(Answer):
    """What the noise of a job's rounds promises each site, or each record."""

    model: str
    unit: str
    noise_multiplier: float
    delta: float
    epsilon: float
    rounds: int
    min_sites: int
    colluding: int = 0
    adaptive_clip: dict[str, Any] | None = None
    correlated: dict[str, int] | None = None

    @property
    def sentence(self) -> str:
        """The terms in words."""
        return terms_sentence(self.model_dump())


class NoisePoint(Answer):
    """The least noise for an epsilon; None where none is enough."""

    epsilon: float
    noise_multiplier: float | None = None


class RoundsPoint(Answer):
    """What a number of rounds costs with the plan's noise; None where it bounds nothing."""

    rounds: int
    epsilon: float | None = None


class ParticipationPlan(Answer):
    """How often a site takes part, and by which factor noise that is correlated over rounds would be smaller."""

    sites: int
    eligible: int
    separation: int
    participations: int
    saving: float
    advice: str


class ClippingPlan(Answer):
    """What a clip norm that follows the updates costs, and how well it can follow them."""

    quantile: float
    rate: float
    start: float
    update_noise: float
    bit_noise: float
    share_noise: float


class PrivacyPlan(Answer):
    """What noise a job has and what it costs; of an exact job, what noise would cost."""

    terms: JobPrivacy | None = None
    model: str
    delta: float
    rounds: int
    min_sites: int
    over_noise: list[NoisePoint] = Field(default_factory=list)
    over_rounds: list[RoundsPoint] = Field(default_factory=list)
    deviation: float | None = None
    mean_noise: float | None = None
    participation: ParticipationPlan | None = None
    clipping: ClippingPlan | None = None


class UnitSpent(Answer):
    """What a job's noisy sums cost each site, or each record, together; epsilon is None where there is no bound."""

    unit: str
    sums: int
    epsilon: float | None
    delta: float

    @property
    def sentence(self) -> str:
        """It in a phrase."""
        bound = "without bound" if self.epsilon is None else f"{self.epsilon:.4g}"
        return f"epsilon {bound} for each {self.unit} at delta {self.delta:g} by {self.sums} noisy sums"


class JobSpent(Answer):
    """What a job's rounds opened so far, and what the noisy sums among them cost."""

    job_id: str
    opened: int
    exact: int
    spent: list[UnitSpent]

    @property
    def sentence(self) -> str:
        """It in one sentence."""
        parts = [each.sentence for each in self.spent]
        exact = f"{self.exact} exact sums, which nothing bounds" if self.exact else ""
        return "; ".join(part for part in (*parts, exact) if part) or "nothing was opened"
