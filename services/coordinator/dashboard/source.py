"""View models over the coordinator's use cases: the calls of the API, with the same person and the same refusals."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from undersong.services.coordinator.accounts import Accounts
from undersong.services.coordinator.auditing import Auditing
from undersong.services.coordinator.dashboard import translate
from undersong.services.coordinator.dashboard.audit_views import Audit, DatasheetPage, Exposure, KeysPage, SpentItem
from undersong.services.coordinator.dashboard.view_model import RoundPage, ViewModel
from undersong.services.coordinator.dashboard.views import (
    ComparisonItem,
    JobItem,
    JobPage,
    Measure,
    NowPage,
    OperationsPage,
    PublishedVersion,
    SiteItem,
)
from undersong.services.coordinator.datasheets import Datasheets
from undersong.services.coordinator.domain.spec import StatisticsSpec
from undersong.services.coordinator.jobs import Jobs
from undersong.services.coordinator.operations import Act, Operations
from undersong.services.coordinator.peers.peer import PartyAway, PartyRefused
from undersong.services.coordinator.repository.jobs import JobEvent
from undersong.services.coordinator.sites import Sites
from undersong.services.coordinator.views.jobs import JobView, RoundView
from undersong.shared.errors import NotFound
from undersong.shared.web.access import Principal, Role
from undersong.shared.web.idempotency import Once

RECENT: Final = 25  # jobs on the first page, and on one page of the list
MOST_ROUNDS: Final = 500  # on one job's page; the API has the rest
MOST_KEYS: Final = 5000  # certificates that the keys page looks at
_BATCH: Final = 100
_WITH_TASKS: Final = 12  # failed or incomplete rounds whose sites' errors a job's page shows


@dataclass(frozen=True, slots=True)
class CoordinatorSource:
    """Opens view models; `degraded` names what the service does without at the moment."""

    jobs: Jobs
    sites: Sites
    accounts: Accounts
    auditing: Auditing
    datasheets: Datasheets
    operations: Operations
    degraded: Callable[[], tuple[str, ...]]

    async def view(self, token: str) -> ViewModel | None:
        """Return the view of the person whose API token this is; None when the token is not valid."""
        person = await self.accounts.lookup(token) if token.isascii() else None
        return None if person is None else CoordinatorViewModel(self, person, person.name)


@dataclass(slots=True)
class CoordinatorViewModel:
    """One person's view of the coordinator."""

    source: CoordinatorSource
    person: Principal
    name: str
    _heard: dict[str, int] = field(default_factory=dict)  # job id -> number of its newest event

    async def now(self) -> NowPage:
        """Return the state of everything, newest jobs first."""
        page = await self.source.jobs.list(self.person, None, None, RECENT, None)
        rounds = [await self._round(job.round_id) for job in page.items if job.round_id]
        releases = await self._releases([job for job in page.items if job.version_id][:3])
        return NowPage(
            jobs=tuple(translate.job(job) for job in page.items),
            current={found.job_id: translate.round_(found) for found in rounds if found is not None},
            sites=tuple(await self.sites()),
            last_release=releases[0] if releases else None,
            degraded=self.source.degraded(),
        )

    async def jobs(self, after: str | None) -> tuple[Sequence[JobItem], str | None]:
        """Return a page of jobs, and where the next one begins."""
        page = await self.source.jobs.list(self.person, None, None, RECENT, after)
        return [translate.job(job) for job in page.items], page.next

    async def job(self, job_id: str) -> JobPage:
        """Return one job with its rounds and metrics."""
        job = await self.source.jobs.get(self.person, job_id)
        found = await self._rounds(job_id)
        wanting = [item.id for item in found if item.got < len(item.cohort)][-_WITH_TASKS:]
        detailed = {item_id: await self.source.jobs.round(self.person, item_id) for item_id in wanting}
        last_seen = translate.last_answers(await self._events(job_id))
        rounds = tuple(translate.round_(detailed.get(item.id, item), last_seen.get(item.id)) for item in found)
        asks = isinstance(job.spec, StatisticsSpec)
        results = (await self.source.jobs.results(self.person, job_id)).results if asks else []
        return JobPage(
            results=tuple(results),
            job=translate.job(job),
            rounds=rounds,
            parts=tuple(translate.part(item) for item in await self.source.jobs.participation(self.person, job_id)),
            measures=translate.measures(found),
            spent=await self._spent(job_id),
            may_steer=self.person.may(Role.SCIENTIST, federation_id=job.federation_id),
        )

    async def _spent(self, job_id: str) -> tuple[SpentItem, ...]:
        account = await self.source.datasheets.account(self.person, job_id)
        return await asyncio.to_thread(translate.spent, account.costs)

    async def measures(self, job_id: str) -> Sequence[Measure]:
        """Return the metrics of a job's evaluation rounds."""
        return translate.measures(await self._rounds(job_id))

    async def steer(self, job_id: str, action: str) -> None:
        """Pause, resume or cancel a job."""
        steps: dict[str, Callable[[Principal, str, Once], Any]] = {
            "pause": self.source.jobs.pause,
            "resume": self.source.jobs.resume,
            "cancel": self.source.jobs.cancel,
        }
        await steps[action](self.person, job_id, Once(None))

    async def round(self, round_id: str) -> RoundPage:
        """Return one round."""
        found = await self.source.jobs.round(self.person, round_id)
        job = await self.source.jobs.get(self.person, found.job_id)
        return RoundPage(translate.round_(found), translate.job(job))

    async def sites(self) -> Sequence[SiteItem]:
        """Return every site of the person's federations."""
        found, after = [], None
        while True:
            page = await self.source.sites.list(self.person, None, _BATCH, after)
            found += [translate.site(item) for item in page.items]
            after = page.next
            if after is None:
                return found

    async def comparisons(self) -> Sequence[ComparisonItem]:
        """Return every data set of the federations that have several sites."""
        found = await self.source.sites.comparisons(self.person)
        return [translate.comparison(item) for item in found if len(item.sites) + len(item.absent) > 1]

    async def releases(self) -> Sequence[PublishedVersion]:
        """Return the model versions that recent jobs published, newest first."""
        page = await self.source.jobs.list(self.person, None, None, RECENT, None)
        return await self._releases([job for job in page.items if job.version_id])

    async def audit(self, subject: str) -> Audit:
        """Return what the checks over the evidence about a round or version found."""
        return translate.audit(await self.source.auditing.verdict(self.person, subject))

    async def operations(self) -> OperationsPage:
        """Return what waits, what was given up, and how the last day went."""
        operations = self.source.operations
        depth, record = await operations.depth(self.person), await operations.record(self.person)
        dead = await operations.dead(self.person, _BATCH, None)
        return translate.operations(depth, record, dead.items, may_act=self.person.may(Role.SCIENTIST))

    async def decide(self, task_id: str, act: Act) -> None:
        """Give a dead task another try, or put it away."""
        await self.source.operations.act(self.person, task_id, act, Once(None))

    async def keys(self) -> KeysPage:
        """Return the keys of the services and of the person's sites."""
        try:
            found = await self.source.auditing.certificates(MOST_KEYS)
        except (PartyAway, PartyRefused, ValidationError) as error:
            return KeysPage((), fault=getattr(error, "detail", None) or "What keys answered is not understood.")
        return KeysPage(translate.keys(found, {site.id: site.name for site in await self.sites()}))

    async def privacy(self) -> Sequence[Exposure]:
        """Return what was released from each data set."""
        found: list[JobView] = []
        after = None
        while len(found) < MOST_ROUNDS:
            page = await self.source.jobs.list(self.person, None, None, _BATCH, after)
            found += page.items
            after = page.next
            if after is None:
                break
        accounts = [(job, await self.source.datasheets.account(self.person, job.id)) for job in found]
        return await asyncio.to_thread(translate.exposures, accounts)

    async def datasheet(self, version_id: str) -> DatasheetPage:
        """Return a version's privacy datasheet."""
        return translate.datasheet(await self.source.datasheets.datasheet(self.person, version_id))

    async def pulse(self) -> str:
        """Return what changes with each event of a recent job, and when a site comes or goes."""
        page = await self.source.jobs.list(self.person, None, None, RECENT, None)
        marks = []
        for job in page.items:
            if job.finished_at is None or job.id not in self._heard:
                self._heard[job.id] = await self._newest_event(job.id)
            marks.append(f"{job.id} {self._heard[job.id]} {job.state}")
        marks += [f"{site.id} {site.online} {site.suspended}" for site in await self.sites()]
        return hashlib.sha256("\n".join([*marks, *self.source.degraded()]).encode()).hexdigest()[:16]

    async def wait(self, timeout_s: float) -> None:
        """Return after `timeout_s`: pages look at SQL themselves, so they work without Redis."""
        await asyncio.sleep(timeout_s)

    async def _newest_event(self, job_id: str) -> int:
        number = self._heard.get(job_id, 0)
        while True:
            events = await self.source.jobs.more_events(job_id, number, _BATCH)
            number = events[-1].number if events else number
            if len(events) < _BATCH:
                return number

    async def _events(self, job_id: str) -> list[JobEvent]:
        found: list[JobEvent] = []
        while True:
            events = await self.source.jobs.more_events(job_id, found[-1].number if found else 0, _BATCH)
            found += events
            if len(events) < _BATCH:
                return found

    async def _round(self, round_id: str) -> RoundView | None:
        try:
            return await self.source.jobs.round(self.person, round_id)
        except NotFound:
            return None

    async def _rounds(self, job_id: str) -> list[RoundView]:
        found: list[RoundView] = []
        after = None
        while len(found) < MOST_ROUNDS:
            page = await self.source.jobs.rounds(self.person, job_id, _BATCH, after)
            found += page.items
            after = page.next
            if after is None:
                break
        return found

    async def _releases(self, jobs: Sequence[JobView]) -> list[PublishedVersion]:
        found = [release for job in jobs for release in translate.releases(job, await self._rounds(job.id))]
        return sorted(found, key=lambda release: release.published_at, reverse=True)
