"""Jobs side by side."""

from typing import Annotated

from fastapi import APIRouter, Query

from undersong.services.coordinator.api.access import Reader, Use
from undersong.services.coordinator.job_comparisons import ComparisonInvalid
from undersong.services.coordinator.views.job_comparisons import JobComparisonView
from undersong.shared.errors import Forbidden, NotFound, Unauthenticated
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1")


@router.get(
    "/job-comparison",
    tags=["jobs"],
    responses=problems(Unauthenticated, Forbidden, NotFound, ComparisonInvalid),
)
async def compare_jobs(
    person: Reader,
    use: Use,
    jobs: Annotated[
        str,
        Query(max_length=1000, description="Ids of up to eight jobs, with commas between them.", examples=["job_a"]),
    ],
) -> JobComparisonView:
    """Return jobs side by side: the settings that differ, the newest metrics, and the curves of all evaluations."""
    return await use.comparisons.compare(person, jobs.split(","))
