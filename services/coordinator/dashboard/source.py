"""View models over the coordinator's use cases: the calls of the API, with the same person and the same refusals."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from pydantic import ValidationError

from undersong.services.coordinator.accounts import Accounts
from undersong.services.coordinator.auditing import Auditing
from undersong.services.coordinator.clones import Clones
from undersong.services.coordinator.dashboard import job_log, translate, translate_audits
from undersong.services.coordinator.dashboard.audit_views import Audit, DatasheetPage, Exposure, KeysPage, SpentItem
from undersong.services.coordinator.dashboard.catalogue_view import CatalogueView
from undersong.services.coordinator.dashboard.member_view import MemberView
from undersong.services.coordinator.dashboard.view_model import RoundPage, ScheduleAct, ViewModel
from undersong.services.coordinator.dashboard.views import (
    ComparisonItem,
    JobItem,
    JobPage,
    LogPage,
    Measure,
    NowPage,
    OperationsPage,
    PublishedVersion,
    SiteItem,
    TimelinePage,
)
from undersong.services.coordinator.datasheets import Datasheets
from undersong.services.coordinator.domain.spec import StatisticsSpec
from undersong.services.coordinator.federations import Federations
from undersong.services.coordinator.job_comparisons import JobComparisons
from undersong.services.coordinator.job_timelines import ANSWER_EVENTS, JobTimelines
from undersong.services.coordinator.jobs import Jobs
from undersong.services.coordinator.membership import Membership
from undersong.services.coordinator.model_catalogue import ModelCatalogue
from undersong.services.coordinator.operations import Act, Operations
from undersong.services.coordinator.peers.peer import PartyAway, PartyRefused
from undersong.services.coordinator.repository.jobs import JobFilter
from undersong.services.coordinator.schedules import Schedules
from undersong.services.coordinator.sites import Sites
from undersong.services.coordinator.sweeps import Sweeps
from undersong.services.coordinator.two_persons import TwoPersons
from undersong.services.coordinator.views.job_comparisons import JobComparisonView
from undersong.services.coordinator.views.jobs import JobVerdict, JobView, RoundView, round_view
from undersong.services.coordinator.views.schedules import ScheduleView
from undersong.services.coordinator.views.sweeps import SweepItemView, SweepView
from undersong.shared.errors import Forbidden, NotFound
from undersong.shared.web.access import Principal, Role
from undersong.shared.web.idempotency import Once

RECENT: Final = 25  # jobs on the first page, and on one page of the list
MOST_ROUNDS: Final = 60  # on one job's page; the timeline and the API have the rest
MOST_JOBS: Final = 500  # whose cost in privacy the privacy page adds up
MOST_DRAWN: Final = 600  # tasks on one timeline
MOST_RECENT: Final = 10  # rounds in a site's row on a job's page
MOST_TIMED: Final = 8  # rounds on one timeline
MOST_LINES: Final = 50  # events on one page of a job's log
MOST_KEYS: Final = 5000  # certificates that the keys page looks at
MOST_RELEASING: Final = 10  # jobs, the newest, whose versions the page of models tells
MOST_RELEASES: Final = 10  # rounds of one job, the newest, that the page of models looks at
_BATCH: Final = 100
_WITH_TASKS: Final = 12  # failed or incomplete rounds whose sites' errors a job's page shows


class TokenLimited(Forbidden):
    """This token has scopes, and the dashboard takes tokens without."""


@dataclass(frozen=True, slots=True)
class CoordinatorSource:
    """Opens view models; `degraded` names what the service does without at the moment."""

    jobs: Jobs
    compared: JobComparisons
    timelines: JobTimelines
    clones: Clones
    schedules: Schedules
    sweeps: Sweeps
    federations: Federations
    sites: Sites
    accounts: Accounts
    auditing: Auditing
    datasheets: Datasheets
    operations: Operations
    degraded: Callable[[], tuple[str, ...]]
    membership: Membership
    two_persons: TwoPersons
    catalogue: ModelCatalogue

    async def view(self, token: str) -> ViewModel | None:
        """Return the view of the person whose API token this is; None when the token is not valid.

        Raises TokenLimited for a token with scopes: pages show and do all that the person may.
        """
        person = await self.accounts.lookup(token) if token.isascii() else None
        if person is not None and person.scopes is not None:
            raise TokenLimited(f"It is for {', '.join(sorted(person.scopes))}. Sign in with a token without scopes.")
        return None if person is None else CoordinatorViewModel(self, person, person.name)


@dataclass(slots=True)
class CoordinatorViewModel:
    """One person's view of the coordinator."""

    source: CoordinatorSource
    person: Principal
    name: str

    @property
    def members(self) -> MemberView:
        """Return what the person may see and do about sites and people."""
        of = self.source
        return MemberView(
            self.person, of.accounts, of.federations, of.sites, of.membership, of.auditing, of.two_persons
        )

    @property
    def models(self) -> CatalogueView:
        """Return what the person may see and do about models."""
        return CatalogueView(self.person, self.source.catalogue)

    async def now(self) -> NowPage:
        """Return the state of everything, newest jobs first."""
        page = await self.source.jobs.list(self.person, RECENT)
        rounds = [await self._round(job.round_id) for job in page.items if job.round_id]
        releases = await self._releases([job for job in page.items if job.version_id][:3])
        return NowPage(
            jobs=tuple(translate.job(job) for job in page.items),
            current={found.job_id: translate.round_(found) for found in rounds if found is not None},
            sites=tuple(await self.sites()),
            last_release=releases[0] if releases else None,
            degraded=self.source.degraded(),
        )

    async def jobs(self, after: str | None, chosen: JobFilter) -> tuple[Sequence[JobItem], str | None]:
        """Return a page of the chosen jobs, and where the next one begins."""
        page = await self.source.jobs.list(self.person, RECENT, after, chosen)
        return [translate.job(job) for job in page.items], page.next

    async def job(self, job_id: str) -> JobPage:
        """Return one job with its rounds and metrics."""
        job = await self.source.jobs.get(self.person, job_id)
        window = await self.source.timelines.window(self.person, job_id, MOST_ROUNDS, types=ANSWER_EVENTS)
        found = [round_view(each) for each in window.rounds]
        wanting = [item.id for item in found if item.got < len(item.cohort)][-_WITH_TASKS:]
        detailed = {item_id: await self.source.jobs.round(self.person, item_id) for item_id in wanting}
        last_seen = translate.last_answers(window.events)
        rounds = tuple(translate.round_(detailed.get(item.id, item), last_seen.get(item.id)) for item in found)
        recent = translate.recent(found, window.events, MOST_RECENT)
        parts = await self.source.jobs.participation(self.person, job_id)
        asks = isinstance(job.spec, StatisticsSpec)
        results = (await self.source.jobs.results(self.person, job_id)).results if asks else []
        return JobPage(
            results=tuple(results),
            job=translate.job(job),
            rounds=rounds,
            parts=tuple(translate.part(item, recent.get(item.site_id, ())) for item in parts),
            newest=translate.newest_measure(found),
            earlier=window.earlier,
            spent=await self._spent(job_id),
            may_steer=self.person.may(Role.SCIENTIST, federation_id=job.federation_id),
        )

    async def _spent(self, job_id: str) -> tuple[SpentItem, ...]:
        account = await self.source.datasheets.account(self.person, job_id)
        return await asyncio.to_thread(translate_audits.spent, account.costs)

    async def compare(self, job_ids: Sequence[str]) -> JobComparisonView:
        """Return up to eight jobs side by side."""
        return await self.source.compared.compare(self.person, job_ids)

    async def measures(self, job_id: str) -> Sequence[Measure]:
        """Return the metrics of a job's evaluation rounds."""
        found = await self.source.compared.compare(self.person, [job_id])
        curve = found.jobs[0].curve
        return [
            Measure(
                number, {name: value for name, values in curve.metrics.items() if (value := values[at]) is not None}
            )
            for at, number in enumerate(curve.rounds)
        ]

    async def document(self, job_id: str) -> Mapping[str, object]:
        """Return the document of a job that the person may run again."""
        return await self.source.clones.document(self.person, job_id)

    async def placed(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return a job document with the federation's id in place of its name, or of the only one there is."""
        placed = dict(document)
        named = placed.pop("federation", None)
        if "federation_id" in placed and named is None:
            return placed
        page = await self.source.federations.list(self.person, _BATCH, None)
        fitting = [each for each in page.items if named in (None, each.id, each.name)]
        return {**placed, "federation_id": fitting[0].id} if len(fitting) == 1 else placed

    async def validate(self, document: Mapping[str, Any]) -> JobVerdict:
        """Return what a job would do; raises JobInvalid with every fault."""
        return await self.source.jobs.validate(self.person, document)

    async def submit(self, document: Mapping[str, Any]) -> JobItem:
        """Start a job; raises JobInvalid with every fault."""
        return translate.job(await self.source.jobs.submit(self.person, document, Once(None)))

    async def timeline(self, job_id: str, before: str | None) -> TimelinePage:
        """Return a job's newest rounds with all that happened in them, or those before a round."""
        job = await self.source.jobs.get(self.person, job_id)
        window = await self.source.timelines.window(self.person, job_id, MOST_TIMED, before)
        fitting = [*accumulate(len(each.round.cohort) for each in reversed(window.rounds))]
        count = max(1, sum(tasks <= MOST_DRAWN for tasks in fitting))
        rounds, last_seen = window.rounds[-count:], translate.last_answers(window.events)
        return TimelinePage(
            job=translate.job(job),
            rounds=tuple(translate.round_(round_view(each), last_seen.get(each.round.id)) for each in rounds),
            moves=translate.moves(window.events),
            names=window.names,
            earlier=window.earlier or len(window.rounds) > count,
            before=before,
        )

    async def log(self, job_id: str, before: int | None, *, problems: bool) -> LogPage:
        """Return a job's newest events, or those before an event; only what went wrong, where `problems`."""
        job = await self.source.jobs.get(self.person, job_id)
        types = job_log.PROBLEMS if problems else ()
        found = await self.source.timelines.log(self.person, job_id, MOST_LINES, before, types)
        return LogPage(translate.job(job), job_log.lines(found.events, found.names), found.earlier, before)

    async def steer(self, job_id: str, action: str) -> None:
        """Pause, resume or cancel a job."""
        steps: dict[str, Callable[[Principal, str, Once], Any]] = {
            "pause": self.source.jobs.pause,
            "resume": self.source.jobs.resume,
            "cancel": self.source.jobs.cancel,
        }
        await steps[action](self.person, job_id, Once(None))

    async def schedules(self) -> Sequence[ScheduleView]:
        """Return the schedules of the person's federations, the newest federation's first."""
        federations = await self.source.federations.list(self.person, _BATCH, None)
        pages = [await self.source.schedules.list(self.person, each.id, _BATCH, None) for each in federations.items]
        return [schedule for page in pages for schedule in page.items]

    async def steer_schedule(self, schedule_id: str, action: ScheduleAct) -> None:
        """Pause, resume or delete a schedule."""
        if action == "delete":
            await self.source.schedules.delete(self.person, schedule_id)
        elif action == "pause":
            await self.source.schedules.pause(self.person, schedule_id, Once(None))
        else:
            await self.source.schedules.resume(self.person, schedule_id, Once(None))

    async def sweeps(self) -> Sequence[SweepItemView]:
        """Return the newest sweeps of the person's federations."""
        federations = await self.source.federations.list(self.person, _BATCH, None)
        pages = [await self.source.sweeps.list(self.person, each.id, _BATCH, None) for each in federations.items]
        return [sweep for page in pages for sweep in page.items]

    async def sweep(self, sweep_id: str) -> SweepView:
        """Return one sweep with its jobs."""
        return await self.source.sweeps.get(self.person, sweep_id)

    async def cancel_sweep(self, sweep_id: str) -> None:
        """Cancel a sweep with its jobs."""
        await self.source.sweeps.cancel(self.person, sweep_id, Once(None))

    async def round(self, round_id: str) -> RoundPage:
        """Return one round."""
        found = await self.source.jobs.round(self.person, round_id)
        job = await self.source.jobs.get(self.person, found.job_id)
        return RoundPage(translate.round_(found), translate.job(job))

    async def sites(self) -> Sequence[SiteItem]:
        """Return every site of the person's federations."""
        found, after = [], None
        while True:
            page = await self.source.sites.list(self.person, _BATCH, after)
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
        page = await self.source.jobs.list(self.person, RECENT)
        return await self._releases([job for job in page.items if job.version_id][:MOST_RELEASING])

    async def audit(self, subject: str) -> Audit:
        """Return what the checks over the evidence about a round or version found."""
        return translate_audits.audit(await self.source.auditing.verdict(self.person, subject))

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
        return KeysPage(translate_audits.keys(found, {site.id: site.name for site in await self.sites()}))

    async def privacy(self) -> Sequence[Exposure]:
        """Return what was released from each data set."""
        found: list[JobView] = []
        after = None
        while len(found) < MOST_JOBS:
            page = await self.source.jobs.list(self.person, _BATCH, after)
            found += page.items
            after = page.next
            if after is None:
                break
        accounts = [(job, await self.source.datasheets.account(self.person, job.id)) for job in found]
        return await asyncio.to_thread(translate_audits.exposures, accounts)

    async def datasheet(self, version_id: str) -> DatasheetPage:
        """Return a version's privacy datasheet."""
        return translate_audits.datasheet(await self.source.datasheets.datasheet(self.person, version_id))

    async def pulse(self) -> str:
        """Return what changes with each event of a recent job, and when a site comes or goes."""
        page = await self.source.jobs.list(self.person, RECENT)
        counts = await self.source.jobs.event_counts(job.id for job in page.items)
        marks = [f"{job.id} {counts.get(job.id, 0)} {job.state}" for job in page.items]
        marks += [f"{site.id} {site.online} {site.suspended}" for site in await self.sites()]
        return hashlib.sha256("\n".join([*marks, *self.source.degraded()]).encode()).hexdigest()[:16]

    async def wait(self, timeout_s: float) -> None:
        """Return after `timeout_s`: pages look at SQL themselves, so they work without Redis."""
        await asyncio.sleep(timeout_s)

    async def _round(self, round_id: str) -> RoundView | None:
        try:
            return await self.source.jobs.round(self.person, round_id)
        except NotFound:
            return None

    async def _releases(self, jobs: Sequence[JobView]) -> list[PublishedVersion]:
        found: list[PublishedVersion] = []
        for job in jobs:
            window = await self.source.timelines.window(self.person, job.id, MOST_RELEASES, types={"none"})
            telling = [each for each in window.rounds if each.metrics or "version_id" in (each.result or {})]
            found += translate.releases(job, [round_view(each) for each in telling])
        return sorted(found, key=lambda release: release.published_at, reverse=True)
