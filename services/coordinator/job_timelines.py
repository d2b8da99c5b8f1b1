"""What happened in a job's rounds, site by site, from the rounds and the events that are stored."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from undersong.services.coordinator.jobs import seen_job
from undersong.services.coordinator.repository.jobs import JobEvent, JobRepository
from undersong.services.coordinator.repository.rounds import RoundRepository, StoredRound
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.shared.database import Database, Transaction
from undersong.shared.ids import SiteId
from undersong.shared.web.access import Principal

MOST_EVENTS = 20_000
ANSWER_EVENTS = frozenset({"task.done", "task.rejected", "task.dead", "task.expired"})
"""The events after which a round no longer waits for a site."""


@dataclass(frozen=True, slots=True)
class RoundsWindow:
    """Some rounds of a job that follow each other, oldest first, with what happened in them.

    earlier: whether there are rounds before these.
    """

    rounds: Sequence[StoredRound]
    events: Sequence[JobEvent]
    names: Mapping[str, str]
    earlier: bool


@dataclass(frozen=True, slots=True)
class EventsWindow:
    """Some events of a job, newest first, with the names of sites; `earlier`: whether there are events before these."""

    events: Sequence[JobEvent]
    names: Mapping[str, str]
    earlier: bool


class JobTimelines:
    """Reads windows of jobs' rounds and events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def window(
        self, person: Principal, job_id: str, limit: int, before: str | None = None, types: Collection[str] = ()
    ) -> RoundsWindow:
        """Return the job's newest rounds, at most `limit`, with their events of these types, of all without any.

        before: the id of a round; only rounds older than it are returned.
        """

        async def work(tx: Transaction) -> RoundsWindow:
            await seen_job(tx, person, job_id)
            found = await RoundRepository(tx).newest_of_job(job_id, limit + 1, before)
            rounds = found[:limit][::-1]
            events: Sequence[JobEvent] = ()
            began = [each.round.created_at for each in rounds if each.round.created_at is not None]
            if began:
                last = rounds[-1].round
                ends = last.finished_at if last.ended else None
                events = await JobRepository(tx).events_between(job_id, min(began), ends, types, MOST_EVENTS)
            names = await SiteRepository(tx).names({site for each in rounds for site in each.round.cohort})
            return RoundsWindow(rounds, events, names, len(found) > limit)

        return await self._database.read("job.timeline", work)

    async def log(
        self, person: Principal, job_id: str, limit: int, before: int | None = None, types: Collection[str] = ()
    ) -> EventsWindow:
        """Return the job's newest events, at most `limit`, of these types, of all without any.

        before: the number of an event; only older ones are returned.
        """

        async def work(tx: Transaction) -> EventsWindow:
            await seen_job(tx, person, job_id)
            found = await JobRepository(tx).newest_events(job_id, before, types, limit + 1)
            events = found[:limit]
            sites = {SiteId(str(each.data["site_id"])) for each in events if each.data.get("site_id")}
            return EventsWindow(events, await SiteRepository(tx).names(sites), len(found) > limit)

        return await self._database.read("job.log", work)
