"""What a job cost in privacy so far, as people read it."""

from collections.abc import Iterable

from pydantic import BaseModel, Field

from undersong.shared.transparency.releases import UnitCost
from undersong.shared.wire.privacy import PrivacyUnit


class SpentOfUnit(BaseModel):
    """What the noisy sums cost each site, or each record, together."""

    unit: PrivacyUnit
    sums: int = Field(description="Noisy sums that were opened")
    epsilon: float | None = Field(description="Epsilon of all of them at `delta`; null where there is no bound")
    delta: float


class SpentView(BaseModel):
    """What a job's rounds opened so far, computed from those that were really published."""

    job_id: str
    opened: int = Field(description="Sums that were opened, exact ones among them")
    exact: int = Field(description="Sums that were opened without noise: nothing bounds what they tell")
    spent: list[SpentOfUnit]


def spent_view(job_id: str, opened: int, exact: int, costs: Iterable[UnitCost]) -> SpentView:
    """Return the view; computes, up to a second the first time."""
    spent = [SpentOfUnit(unit=cost.unit, sums=cost.releases, epsilon=cost.epsilon, delta=cost.delta) for cost in costs]
    return SpentView(job_id=job_id, opened=opened, exact=exact, spent=spent)
