"""Sweeps: made, looked at and cancelled by people; their jobs are submitted by a worker, a few at a time."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import structlog

from undersong.services.coordinator.domain.findings import JobInvalid
from undersong.services.coordinator.domain.jobs import JobOver
from undersong.services.coordinator.domain.sweeps import (
    MOST,
    Child,
    Sweep,
    SweepInvalid,
    child_document,
    parameters,
    placed_errors,
)
from undersong.services.coordinator.jobs import Jobs
from undersong.services.coordinator.repository.rounds import RoundRepository
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.repository.sweeps import SweepRepository
from undersong.services.coordinator.schedules import person_of, refusal_in_words
from undersong.services.coordinator.views.jobs import JobVerdict
from undersong.services.coordinator.views.sweeps import SweepItemView, SweepPlanView, SweepView, item_view, sweep_view
from undersong.shared.database import Database, Page, Transaction
from undersong.shared.errors import Conflict, FieldError, Refusal, Unavailable, no_such
from undersong.shared.ids import FederationId, JobId, SweepId, UserId, new_id
from undersong.shared.web.access import Principal, Role
from undersong.shared.web.idempotency import Once

MOST_OPEN: Final = 10  # sweeps of one federation with jobs that wait
TOGETHER: Final = 20
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class SweepNameTaken(Conflict):
    """The federation has a sweep of this name: its jobs would have the same tag."""


class TooManySweeps(Conflict):
    """The federation has as many sweeps with waiting jobs as it may."""


class PlaceTaken(Exception):
    """The place of a sweep was taken or left out meanwhile: no job is made for it."""


class Sweeps:
    """What people do with sweeps."""

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self._database, self._jobs = database, jobs

    async def plan(
        self, person: Principal, name: str, document: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]
    ) -> SweepPlanView:
        """Return what a sweep would be; raises SweepInvalid with every fault of every job."""
        verdicts = await self._judged(person, name, document, changes)
        cost = _cost(verdicts)
        everywhere = set.intersection(*(set(each.sites) for each in verdicts))
        return SweepPlanView(
            jobs=len(verdicts),
            parameters=parameters(changes),
            epsilon=None if cost is None else cost[0],
            delta=None if cost is None else cost[1],
            sites=sorted(everywhere),
        )

    async def create(
        self,
        person: Principal,
        name: str,
        document: Mapping[str, Any],
        changes: Sequence[Mapping[str, Any]],
        parallel: int,
        once: Once,
    ) -> SweepView:
        """Return a new sweep; raises SweepInvalid with every fault of every job, and then makes none."""
        cost = _cost(await self._judged(person, name, document, changes))

        async def work(tx: Transaction) -> SweepView:
            sweeps = SweepRepository(tx)
            federation = await SiteRepository(tx).federation(str(document["federation_id"]), lock=True)
            if await sweeps.is_named(federation.id, name):
                raise SweepNameTaken(f"Choose another name: there is a sweep {name!r} already.")
            if await sweeps.count_open(federation.id) >= MOST_OPEN:
                raise TooManySweeps(f"The federation has {MOST_OPEN} sweeps with waiting jobs: cancel one, or wait.")
            made = Sweep(
                id=SweepId(new_id("swp")),
                federation_id=FederationId(federation.id),
                name=name,
                document=dict(document),
                parallel=parallel,
                user_id=UserId(person.user_id),
                created_by=person.name,
                created_at=await tx.now(),
                cancelled_at=None,
                children=tuple(Child(place, each) for place, each in enumerate(changes, 1)),
                cost=cost,
            )
            await sweeps.add(made)
            return sweep_view(made, {})

        return await self._database.run("sweep.create", once(work))

    async def list(
        self,
        person: Principal,
        federation_id: str,
        limit: int,
        after: str | None,
        *,
        name: str | None = None,
        sort: str = "-created",
    ) -> Page[SweepItemView]:
        """Return a federation's sweeps."""

        async def work(tx: Transaction) -> Page[SweepItemView]:
            person.check(*Role, federation_id=federation_id)
            sweeps, federation = SweepRepository(tx), await SiteRepository(tx).federation(federation_id)
            found = await sweeps.list(federation.id, limit, after, name=name, sort=sort)
            states = await sweeps.states(found.items)
            return found.map(lambda one: item_view(one, states))

        return await self._database.read("sweeps.list", work)

    async def get(self, person: Principal, sweep_id: str) -> SweepView:
        """Return a sweep with its jobs and their newest metrics."""

        async def work(tx: Transaction) -> SweepView:
            return await _viewed(tx, await _of(tx, person, sweep_id, *Role))

        return await self._database.read("sweep.get", work)

    async def cancel(self, person: Principal, sweep_id: str, once: Once) -> SweepView:
        """Submit no further job, and cancel those that have not ended. Idempotent."""

        async def stop(tx: Transaction) -> Sequence[JobId]:
            await _of(tx, person, sweep_id, Role.SCIENTIST)
            await SweepRepository(tx).cancel(sweep_id)
            found = await SweepRepository(tx).get(sweep_id)
            return [child.job_id for child in found.children if child.job_id is not None]

        async def work(tx: Transaction) -> SweepView:
            return await _viewed(tx, await SweepRepository(tx).get(sweep_id))

        for job_id in await self._database.run("sweep.stop", stop):
            with suppress(JobOver):
                await self._jobs.cancel(person, job_id, Once(None))
        return await self._database.run("sweep.cancel", once(work))

    async def _judged(
        self, person: Principal, name: str, document: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]
    ) -> Sequence[JobVerdict]:
        """Return the verdicts on all jobs; raises SweepInvalid with every fault."""
        if not 1 <= len(changes) <= MOST:
            raise SweepInvalid(f"A sweep has 1 to {MOST} jobs, not {len(changes)}.")
        moved = [place for place, each in enumerate(changes) if "federation_id" in each]
        if moved:
            errors = [
                FieldError(f"/changes/{place}/federation_id", "all jobs are of one federation") for place in moved
            ]
            raise SweepInvalid("No job was submitted.", errors=errors)
        verdicts, errors = [], []
        for place, each in enumerate(changes, 1):
            try:
                verdicts.append(await self._jobs.validate(person, child_document(name, document, each, place)))
            except JobInvalid as error:
                errors += placed_errors(place, error.errors)
        if errors:
            raise SweepInvalid("No job was submitted: each must be one that could be submitted alone.", errors=errors)
        return verdicts


class SweepRunner:
    """Submits the jobs whose turn it is; each once, whichever worker dies at whichever line.

    The transaction that makes a job takes the place, so that none is made twice, or after the sweep was cancelled.
    """

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self._database, self._jobs = database, jobs

    async def sweep(self) -> int:
        """Submit what is due; return how many jobs there were. A sweep that cannot be judged now waits."""
        count, after = 0, ""
        while found := await self._database.read("sweeps.due", partial(_due, after=after)):
            after = found[-1][0].id
            for sweep, children in found:
                count += await self._submit_all(sweep, children)
        return count

    async def _submit_all(self, sweep: Sweep, children: Sequence[Child]) -> int:
        """Submit these places, until one cannot be judged now; return how many."""
        for count, child in enumerate(children):
            try:
                await self._submit(sweep, child)
            except Unavailable as error:
                log.warning("sweep.waits", sweep_id=sweep.id, reason=error.detail)
                return count
            except Exception:
                log.exception("sweep.failed", sweep_id=sweep.id)
                return count
        return len(children)

    async def _submit(self, sweep: Sweep, child: Child) -> None:
        async def take(tx: Transaction, job_id: JobId | None, reason: str | None = None) -> None:
            if not await SweepRepository(tx).settle(sweep.id, child.place, job_id, reason):
                raise PlaceTaken

        try:
            person = await self._database.read("sweep.person", lambda tx: person_of(tx, sweep.user_id))
            job = await self._jobs.submit(person, sweep.document_of(child), Once(None), take, sweep_id=sweep.id)
            log.info("sweep.submitted", sweep_id=sweep.id, place=child.place, job_id=job.id)
        except PlaceTaken:
            return
        except Unavailable:
            raise
        except Refusal as refusal:
            reason = refusal_in_words(refusal)
            with suppress(PlaceTaken):
                await self._database.run("sweep.refused", lambda tx: take(tx, None, reason))
            log.info("sweep.refused", sweep_id=sweep.id, place=child.place)


async def _due(tx: Transaction, after: str) -> list[tuple[Sweep, list[Child]]]:
    """Return some open sweeps beyond an id, each with the places whose turn it is."""
    sweeps = await SweepRepository(tx).open(TOGETHER, after)
    states = await SweepRepository(tx).states(sweeps)
    found = []
    for each in sweeps:
        own = {child.job_id: states[child.job_id] for child in each.children if child.job_id is not None}
        found.append((each, each.due(own)))
    return found


async def _of(tx: Transaction, person: Principal, sweep_id: str, *roles: Role) -> Sweep:
    found = await SweepRepository(tx).get(sweep_id)
    person.check(*roles, federation_id=found.federation_id, hidden=no_such("sweep", sweep_id))
    return found


async def _viewed(tx: Transaction, sweep: Sweep) -> SweepView:
    states = await SweepRepository(tx).states([sweep])
    return sweep_view(sweep, states, await RoundRepository(tx).published(list(states)))


def _cost(verdicts: Sequence[JobVerdict]) -> tuple[float, float] | None:
    """Return epsilon and delta of all jobs together, by basic composition (Dwork and Roth 2014, theorem 3.16)."""
    terms = [each.privacy for each in verdicts if each.privacy is not None]
    return (sum(each.epsilon for each in terms), sum(each.delta for each in terms)) if terms else None
