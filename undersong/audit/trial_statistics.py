"""A statistics job on one machine's own rows, mock data for example: judged, asked and answered by the code of the
platform and of an agent, without either and without budget.

Each of as many sites as the job needs has the same rows. The coordinator's rules judge the job and plan its rounds, the
recipe adds up in its confined child, the agent's code makes of that what an engine would hide, with the site's noise
where the round asks for it. The engine itself is left out: one machine hides nothing from itself, and
integers add up to the same sum behind masks and without them.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.audit.trainer import Trainer, declared
from undersong.audit.trial import refused
from undersong.client.types import StatisticsResults
from undersong.errors import UndersongError
from undersong.recipes.catalogue import load_recipe
from undersong.recipes.datasets import BadDataset, describe_dataset
from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.rounds.updates import sums_to_hide
from undersong.services.agent.runner.protocol import Progress
from undersong.services.coordinator.domain.jobs import Job, RoundOutcome
from undersong.services.coordinator.domain.manifests import Settled, cohort_for, manifest_for
from undersong.services.coordinator.domain.parts import MIN_COHORT
from undersong.services.coordinator.domain.progress import Finished, Step
from undersong.services.coordinator.domain.sites import SiteFacts
from undersong.services.coordinator.domain.spec import StatisticsSpec
from undersong.services.coordinator.domain.statistics import RECIPE, judge_statistics, rounds_of
from undersong.services.coordinator.domain.validation import ValidJob, World
from undersong.services.coordinator.views.jobs import results_view
from undersong.shared.errors import FieldError, Refusal
from undersong.shared.ids import FederationId, JobId, RoundId, SiteId, new_id
from undersong.shared.privacy.noise import add_discrete_gaussian
from undersong.shared.secagg.engines import ENGINES
from undersong.shared.secagg.payload import opened_sums
from undersong.shared.secagg.private import noise_of_server
from undersong.shared.secagg.quantise import unpack
from undersong.shared.wire.manifest import DataRef, RecipeRef, RoundManifest
from undersong.shared.wire.privacy import PrivacyTerms
from undersong.shared.wire.profiles import DatasetSchema, Hardware, SiteProfile

_MOST_SITES: Final = 1000
_SERVERS: Final = 2
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class StatisticsTrial:
    """What a trial found, in the form of a job's answers: the rows of each of the sites, and what the job would cost.

    terms: what the job's noise promises; None for exact sums.
    """

    answers: StatisticsResults
    sites: int
    rows: int
    terms: PrivacyTerms | None
    warnings: Sequence[FieldError] = ()


async def try_statistics(
    document: Mapping[str, Any], declarations: Path, folder: Path, progress: Progress
) -> StatisticsTrial:
    """Ask what a statistics job asks of rows that are here; UndersongError with every fault of the job."""
    data = document.get("data")
    entry = declared(declarations, str(data.get("dataset") if isinstance(data, Mapping) else None))
    try:
        schema = describe_dataset(entry)
    except BadDataset as refusal:
        raise UndersongError(refusal.explain(), remedy="correct the file or its declaration") from None
    verdict = _judged(document, schema)
    files = entry.sources
    recipe, nothing = RecipeRef(name=RECIPE, digest=verdict.resolved.recipe.digest), DataRef(dataset=entry.name)
    async with Trainer(folder, declarations, files, recipe, nothing) as trainer:
        job = await _answered(_job(verdict), trainer, progress)
    answers = StatisticsResults.model_validate(results_view(job, _spec(job)).model_dump(mode="json"))
    rows = schema.rows or 0
    return StatisticsTrial(answers, len(verdict.resolved.eligible), rows, verdict.resolved.privacy, verdict.warnings)


def _judged(document: Mapping[str, Any], schema: DatasetSchema) -> ValidJob:
    """Return the coordinator's verdict for a federation of sites that have these rows alone; UndersongError."""
    profile = SiteProfile(
        agent_version="trial",
        protocol=1,
        recipes=(load_recipe(RECIPE).spec,),
        datasets=(schema,),
        hardware=Hardware(cpus=1, memory_bytes=0),
    )
    cohort = document.get("cohort")
    least = cohort.get("min") if isinstance(cohort, Mapping) else None
    count = min(least, _MOST_SITES) if isinstance(least, int) and least > 0 else MIN_COHORT
    sites = [SiteFacts(SiteId(f"site_{place}"), f"trial-{place}", True, profile) for place in range(count)]
    world = World(
        federation_known=True,
        sites=sites,
        engines=ENGINES,
        check_strategy=lambda *_: None,
        check_encoding=lambda *_: None,
    )
    try:
        return judge_statistics({"federation_id": new_id("fed"), "kind": "statistics", **document}, world)
    except Refusal as refusal:
        raise refused(refusal) from None


def _spec(job: Job) -> StatisticsSpec:
    if not isinstance(job.spec, StatisticsSpec):
        raise TypeError("a job of another kind was judged")
    return job.spec


def _job(verdict: ValidJob) -> Job:
    now = datetime.now(UTC)
    return Job(
        id=JobId(new_id("job")),
        federation_id=FederationId(verdict.spec.federation_id),
        spec=verdict.spec,
        resolved=verdict.resolved,
        created_by="trial",
        created_at=now,
        next_check_at=now,
    )


async def _answered(job: Job, trainer: Trainer, progress: Progress) -> Job:
    """Return the job after all its rounds; UndersongError where a site could not answer one."""
    most = rounds_of(_spec(job))
    while isinstance(step := job.next(), Step):
        sites = cohort_for(job, step, job.resolved.eligible)
        settled = Settled(RoundId(new_id("rnd")), sites, epoch=1, deadline_s=3600.0)
        manifest = manifest_for(job, step, settled)
        try:
            opened = await _opened(manifest, trainer)
            job = job.advanced(
                step.kind, job.progress.asked, RoundOutcome(len(sites), values=opened), datetime.now(UTC)
            )
        except (Refusal, TaskFailure) as error:
            said = error.detail if isinstance(error, Refusal) else str(error)
            raise UndersongError(f"a site could not answer: {said}", remedy="correct the job or the data") from None
        progress(job.progress.asked / most)
    progress(1.0)
    return job.finish(step.state, step.reason, datetime.now(UTC)) if isinstance(step, Finished) else job


async def _opened(manifest: RoundManifest, trainer: Trainer) -> tuple[float, ...]:
    """Return what a round's engine opens: the sum over all sites, with the noise of sites and of servers."""
    total: npt.NDArray[np.uint64] | None = None
    for _ in manifest.cohort:
        payload = sums_to_hide(manifest, await trainer.statistics(manifest))
        words = unpack(payload.data, payload.modulus_bits)
        total = words.copy() if total is None else total + words
    if total is None:
        raise ValueError("a round without sites")
    noise = np.zeros(total.size, np.int64)
    for _ in range(_SERVERS if (sigma := noise_of_server(manifest, total.size)) else 0):
        add_discrete_gaussian(noise, sigma, secrets.token_bytes(_KEY_BYTES))
    total += noise.view(np.uint64)
    return tuple(float(value) for value in opened_sums(manifest, total))
