"""Jobs and their events."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, cast

import structlog
from sqlalchemy import (
    JSON,
    ColumnElement,
    Integer,
    String,
    Table,
    bindparam,
    func,
    insert,
    select,
    true,
    type_coerce,
    update,
)

from undersong.services.coordinator.domain.causes import Cause
from undersong.services.coordinator.domain.jobs import Job
from undersong.services.coordinator.domain.progress import JobState, Progress
from undersong.services.coordinator.domain.spec import spec_of
from undersong.services.coordinator.domain.tasks import DEALER_AT_FAULT
from undersong.services.coordinator.domain.validation import Resolved
from undersong.services.coordinator.domain.webhooks import EVENTS
from undersong.services.coordinator.repository import Overtaken
from undersong.services.coordinator.repository.webhooks import WebhookRepository
from undersong.services.coordinator.tables import JobEventRow, JobRow
from undersong.shared.database import Page, Transaction, ordering, page
from undersong.shared.errors import no_such
from undersong.shared.ids import Digest, FederationId, JobId, ModelId, RoundId, SiteId, VersionId
from undersong.shared.secagg.engine import SHARES_DISPUTED
from undersong.shared.telemetry.traces import current_trace

_JOBS = cast("Table", JobRow.__table__)
_EVENTS = cast("Table", JobEventRow.__table__)
_NUMBERED = (
    update(_JOBS)
    .where(_JOBS.c.id == bindparam("job", type_=String()))
    .values(events=_JOBS.c.events + bindparam("more", type_=Integer()))
    .returning(_JOBS.c.events)
)
_ADD_EVENT = insert(_EVENTS)
EVENTS_TOPIC = "coordinator.events"
FAULT, EXCLUDED, DISPUTED = "site.fault", "site.excluded", "site.disputed"
FAULT_EVENTS: Mapping[str, str] = {DEALER_AT_FAULT: EXCLUDED, SHARES_DISPUTED: DISPUTED}
"""Codes of sites' faults whose events are not `FAULT`."""
_LATER = frozenset({"asked", "excused", "causes", "unable", "clip_norm"})
_TOLD = ("round_id", "task_id", "site_id", "kind", "number", "state", "phase", "attempt", "reason", "code")
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened to a job and is to be written down, with the trace in which it did."""

    type: str
    actor: str
    data: Mapping[str, Any]
    trace: str | None


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One thing that happened to a job; `number` counts them from 1 without gaps."""

    job_id: JobId
    number: int
    type: str
    actor: str
    data: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs a list has, and in which order; what is None is not asked for.

    name: a part of the name, in either case. owner: the name of the user who submitted it. sort: `created`, `name` or
    `state`, falling with a minus before it.
    """

    federation_id: str | None = None
    state: str | None = None
    kind: str | None = None
    name: str | None = None
    owner: str | None = None
    tag: str | None = None
    sort: str = "-created"


EVERY_JOB = JobFilter()
_ORDERS: Final = {"name": JobRow.name, "state": JobRow.state}


def _names_tag(tags: ColumnElement[str], tag: str) -> ColumnElement[bool]:
    """Return whether a list in JSON has a tag, exactly as written: SQLite's LIKE takes either case for the other.

    Tags have no quotes in them, so that the list names one exactly where it has it in quotes.
    """
    return func.replace(tags, f'"{tag}"', "") != tags


def _conditions(chosen: JobFilter) -> list[ColumnElement[bool]]:
    spec = type_coerce(JobRow.spec, JSON)
    found: list[ColumnElement[bool] | None] = [
        None if chosen.federation_id is None else JobRow.federation_id == chosen.federation_id,
        None if chosen.state is None else JobRow.state == chosen.state,
        None if chosen.kind is None else spec["kind"].as_string() == chosen.kind,
        None if chosen.name is None else JobRow.name.icontains(chosen.name, autoescape=True),
        None if chosen.owner is None else JobRow.created_by == chosen.owner,
        None if chosen.tag is None else _names_tag(spec["tags"].as_string(), chosen.tag),
    ]
    return [each for each in found if each is not None]


class JobRepository:
    """Jobs in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def add(self, job: Job) -> None:
        """Insert."""
        values = {
            **_values(job),
            "id": job.id,
            "federation_id": job.federation_id,
            "name": job.spec.name,
            "spec": job.spec.model_dump(mode="json"),
            "resolved": job.resolved.model_dump(mode="json"),
            "created_by": job.created_by,
            "created_at": job.created_at,
            "version": job.version,
            "events": 0,
        }
        await self._session.execute(insert(JobRow).values(values))

    async def get(self, job_id: str, *, lock: bool = False) -> Job:
        """Load, with the row locked where asked; raises NotFound."""
        query = select(JobRow).where(JobRow.id == job_id).execution_options(populate_existing=True)
        row = await self._session.scalar(query.with_for_update() if lock else query)
        if row is None:
            raise no_such("job", job_id)
        return _job(row)

    async def save(self, job: Job) -> None:
        """Write a job back that was loaded at this version; raises `Overtaken`."""
        done = await self._session.execute(
            update(JobRow)
            .where(JobRow.id == job.id, JobRow.version == job.version)
            .values({**_values(job), "version": job.version + 1})
            .execution_options(synchronize_session=False)
            .returning(JobRow.id)
        )
        if done.first() is None:
            raise Overtaken(f"Job {job.id} was changed by another request just now.", retry_after_s=1)

    async def list(self, within: Collection[str] | None, chosen: JobFilter, limit: int, after: str | None) -> Page[Job]:
        """Return a page of the chosen jobs in the federations `within` (None is all), in the order that is asked for.

        after: the id of the last job of the page before.
        """
        query = select(JobRow).where(*_conditions(chosen))
        seen = true() if within is None else JobRow.federation_id.in_(within)
        by, falling = ordering(chosen.sort, _ORDERS)
        found = page(self._session, query.where(seen), JobRow.id, limit, after, descending=falling, by=by, within=seen)
        return (await found).map(_job)

    async def due(self, now: datetime) -> Sequence[JobId]:
        """Return running jobs without a round that should have been looked at by now."""
        query = select(JobRow.id).where(
            JobRow.state == JobState.RUNNING, JobRow.round_id.is_(None), JobRow.next_check_at <= now
        )
        return [JobId(job_id) for job_id in await self._session.scalars(query.order_by(JobRow.id).limit(100))]

    async def ended_since(self, since: datetime) -> Sequence[Job]:
        """Return jobs that ended after a time, the newest first."""
        query = select(JobRow).where(JobRow.finished_at > since).order_by(JobRow.finished_at.desc()).limit(100)
        return [_job(row) for row in await self._session.scalars(query)]

    async def record(self, job_id: str, type: str, actor: str, data: Mapping[str, Any], *, notify: bool = True) -> None:  # noqa: A002
        """Append an event of the present trace; the job's row orders them.

        `notify` tells other processes, else they look once a second.
        """
        await self.record_all(job_id, [Entry(type, actor, data, current_trace())], notify=notify)

    async def record_all(self, job_id: str, entries: Sequence[Entry], *, notify: bool = True) -> None:
        """Append events, at least one, in their order."""
        last = await self._session.scalar(_NUMBERED, {"job": job_id, "more": len(entries)}) or 0
        numbered = list(enumerate(entries, last - len(entries) + 1))
        now = await self._tx.now()
        rows = [
            {
                "job_id": job_id,
                "number": number,
                "type": entry.type,
                "actor": entry.actor,
                "data": dict(entry.data),
                "trace": entry.trace,
                "created_at": now,
            }
            for number, entry in numbered
        ]
        await self._session.execute(_ADD_EVENT, rows)
        offered = [(number, entry.type) for number, entry in numbered if entry.type in EVENTS]
        if offered:
            await WebhookRepository(self._tx).announce(job_id, offered)
        for entry in entries:
            self._tx.after_commit(partial(_tell, job_id, entry))
            if notify:
                await self._tx.emit(EVENTS_TOPIC, entry.type, job_id)

    async def skip_numbers(self, count: int) -> None:
        """Begin anew with numbers that no copy of this database has given out: sites answer none of them twice."""
        unended = select(JobRow).where(JobRow.state.in_([JobState.RUNNING, JobState.PAUSED]))
        for job in [_job(row) for row in await self._session.scalars(unended)]:
            await self.save(replace(job, progress=replace(job.progress, settled=job.progress.settled + count)))

    async def trace(self, job_id: str) -> str | None:
        """Return the trace in which the job was submitted; all that follows goes on in it."""
        query = select(_EVENTS.c.trace).where(_EVENTS.c.job_id == job_id, _EVENTS.c.number == 1)
        found: str | None = await self._session.scalar(query)
        return found

    async def events(self, job_id: str, after: int, limit: int) -> Sequence[JobEvent]:
        """Return the job's events beyond number `after`, in order."""
        query = (
            select(JobEventRow)
            .where(JobEventRow.job_id == job_id, JobEventRow.number > after)
            .order_by(JobEventRow.number)
            .limit(limit)
        )
        return [_event(row) for row in await self._session.scalars(query)]

    async def newest_events(
        self, job_id: str, before: int | None, types: Collection[str], limit: int
    ) -> Sequence[JobEvent]:
        """Return the job's newest events of these types, or of all, before number `before`; the newest first."""
        query = select(JobEventRow).where(JobEventRow.job_id == job_id)
        if before is not None:
            query = query.where(JobEventRow.number < before)
        if types:
            query = query.where(JobEventRow.type.in_(sorted(types)))
        return [
            _event(row) for row in await self._session.scalars(query.order_by(JobEventRow.number.desc()).limit(limit))
        ]

    async def events_between(
        self, job_id: str, start: datetime, end: datetime | None, types: Collection[str], limit: int
    ) -> Sequence[JobEvent]:
        """Return the job's events of these types, or all, between two moments (without an end: until now), in order."""
        query = select(JobEventRow).where(JobEventRow.job_id == job_id, JobEventRow.created_at >= start)
        if end is not None:
            query = query.where(JobEventRow.created_at <= end)
        if types:
            query = query.where(JobEventRow.type.in_(sorted(types)))
        return [_event(row) for row in await self._session.scalars(query.order_by(JobEventRow.number).limit(limit))]

    async def counts(self, job_ids: Collection[str]) -> dict[str, int]:
        """Return how many events each of these jobs has."""
        query = select(_JOBS.c.id, _JOBS.c.events).where(_JOBS.c.id.in_(sorted(job_ids)))
        return {row.id: row.events for row in await self._session.execute(query)}

    async def faults(self, job_id: str) -> Sequence[JobEvent]:
        """Return the events that name sites which broke the engine's protocol in a round, or of which others say so."""
        named = JobEventRow.type.in_([FAULT, EXCLUDED, DISPUTED])
        query = select(JobEventRow).where(JobEventRow.job_id == job_id, named).order_by(JobEventRow.number)
        return [_event(row) for row in await self._session.scalars(query)]


def _tell(job_id: str, entry: Entry) -> None:
    told = {name: entry.data[name] for name in _TOLD if entry.data.get(name) is not None}
    log.info(entry.type, job_id=job_id, actor=entry.actor, **told)


def _values(job: Job) -> dict[str, Any]:
    return {
        "state": str(job.state),
        "reason": job.reason,
        "next_check_at": job.next_check_at,
        "model_id": job.model_id,
        "version_id": job.version_id,
        "version_digest": job.version_digest,
        "context": dict(job.context),
        "progress": _progress(job.progress),
        "results": None if job.results is None else [dict(result) for result in job.results],
        "last_failure": job.last_failure,
        "round_id": job.round_id,
        "waiting_since": job.waiting_since,
        "finished_at": job.finished_at,
    }


def _progress(progress: Progress) -> dict[str, Any]:
    """Leave out what is as at the start and came with a later version: the version before can go on with the job."""
    known = asdict(progress)
    return {name: value for name, value in known.items() if value or name not in _LATER}


def _job(row: JobRow) -> Job:
    progress = dict(row.progress)
    scores = tuple(progress.pop("scores", ()))
    causes = tuple(Cause(**cause) for cause in progress.pop("causes", ()))
    unable = {SiteId(site): str(code) for site, code in progress.pop("unable", {}).items()}
    if "settled" not in progress:  # stored by a version that numbered rounds by kind; ahead of all those numbers
        progress["settled"] = progress.get("trained", 0) + progress.get("evaluated", 0) + 2
    return Job(
        id=JobId(row.id),
        federation_id=FederationId(row.federation_id),
        spec=spec_of(row.spec),
        resolved=Resolved.model_validate(row.resolved),
        created_by=row.created_by,
        created_at=row.created_at,
        next_check_at=row.next_check_at,
        state=JobState(row.state),
        version=row.version,
        reason=row.reason,
        model_id=ModelId(row.model_id) if row.model_id else None,
        version_id=VersionId(row.version_id) if row.version_id else None,
        version_digest=Digest(row.version_digest) if row.version_digest else None,
        context=row.context,
        progress=Progress(**progress, scores=scores, causes=causes, unable=unable),
        results=None if row.results is None else tuple(row.results),
        last_failure=row.last_failure,
        round_id=RoundId(row.round_id) if row.round_id else None,
        waiting_since=row.waiting_since,
        finished_at=row.finished_at,
    )


def _event(row: JobEventRow) -> JobEvent:
    return JobEvent(JobId(row.job_id), row.number, row.type, row.actor, row.data, row.created_at)
