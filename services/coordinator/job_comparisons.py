"""Jobs side by side: what differs in their settings, and how each one learned."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime

from undersong.services.coordinator.domain.comparison import (
    MOST_COMPARED_JOBS,
    PublishedRound,
    differing,
    learning_curve,
    metric_names,
)
from undersong.services.coordinator.domain.jobs import Job
from undersong.services.coordinator.domain.spec import JobSpec
from undersong.services.coordinator.jobs import seen_job
from undersong.services.coordinator.repository.rounds import RoundRepository
from undersong.services.coordinator.views.job_comparisons import JobComparisonView, compared_job, setting_view
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Invalid
from undersong.shared.ids import JobId
from undersong.shared.web.access import Principal


class ComparisonInvalid(Invalid):
    """These jobs cannot be compared."""


class JobComparisons:
    """Compares jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def compare(self, person: Principal, job_ids: Sequence[str]) -> JobComparisonView:
        """Return up to eight jobs side by side, in this order; a repeated one counts once.

        Raises ComparisonInvalid for none or too many, NotFound for one that the person may not see.
        """
        wanted = list(dict.fromkeys(each.strip() for each in job_ids if each.strip()))
        if not wanted:
            raise ComparisonInvalid("No job is named: give the ids of up to eight, with commas between them.")
        if len(wanted) > MOST_COMPARED_JOBS:
            raise ComparisonInvalid(f"These are {len(wanted)} jobs; at most {MOST_COMPARED_JOBS} are compared at once.")

        async def work(
            tx: Transaction,
        ) -> tuple[list[Job], Sequence[PublishedRound], Mapping[JobId, int], datetime]:
            jobs = [await seen_job(tx, person, job_id) for job_id in wanted]
            rounds = RoundRepository(tx)
            return jobs, await rounds.published(wanted), await rounds.vector_lengths(wanted), await tx.now()

        found = await self._database.read("jobs.compare", work)
        return await asyncio.to_thread(_comparison, *found)  # thousands of points


def _comparison(
    jobs: Sequence[Job], rounds: Sequence[PublishedRound], lengths: Mapping[JobId, int], now: datetime
) -> JobComparisonView:
    of_job: defaultdict[JobId, list[PublishedRound]] = defaultdict(list)
    for each in rounds:
        of_job[each.job_id].append(each)
    compared = []
    for job in jobs:
        size = _bytes_of_update(job, lengths.get(job.id))
        curve = learning_curve(job.created_at, of_job[job.id], size)
        compared.append(compared_job(job, of_job[job.id], curve, size, now))
    return JobComparisonView(
        jobs=compared,
        settings=[setting_view(each) for each in differing([job.spec.model_dump(mode="json") for job in jobs])],
        metrics=metric_names(each.curve.metrics for each in compared),
    )


def _bytes_of_update(job: Job, length: int | None) -> int | None:
    """Return the bytes of one update's integers; None where nothing was trained."""
    if length is None or not isinstance(job.spec, JobSpec):
        return None
    return length * job.spec.update.modulus_bits // 8
