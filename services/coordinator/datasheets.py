"""Privacy datasheets of model versions, and what jobs released: from rounds, the registry and the keys service.

A datasheet is made when it is asked for. Where it says something new it is signed with the coordinator's key and kept
in the registry, with the version; else the one that is kept there is given.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from undersong.services.coordinator.domain.jobs import Job
from undersong.services.coordinator.domain.rounds import Phase
from undersong.services.coordinator.domain.spec import StatisticsSpec
from undersong.services.coordinator.peers.keys import KeysDirectory
from undersong.services.coordinator.peers.peer import PartyAway, PartyRefused
from undersong.services.coordinator.peers.registry import Registry
from undersong.services.coordinator.repository.jobs import JobRepository
from undersong.services.coordinator.repository.rounds import RoundRepository, StoredRound
from undersong.services.coordinator.repository.tasks import TaskRepository
from undersong.shared.clock import utc_now
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import NotFound, no_such
from undersong.shared.identity.authority import Identity
from undersong.shared.ids import RoundId, SiteId, VersionId
from undersong.shared.secagg.engines import ENGINES
from undersong.shared.transparency.datasheet import (
    Datasheet,
    SheetAudit,
    SheetLedger,
    SheetRecipe,
    SheetSubject,
    SheetUtility,
    SignedDatasheet,
    sign_datasheet,
)
from undersong.shared.transparency.datasheet_making import SheetFacts, make_datasheet
from undersong.shared.transparency.ledger_heads import LoggedLedgerHead
from undersong.shared.transparency.releases import Release, UnitCost, costs_of, exact_of
from undersong.shared.web.access import Principal, Role
from undersong.shared.wire.manifest import RoundKind

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MOST_ANCESTORS: Final = 1000
"""Jobs that a version's line is followed back through."""
MOST_KEPT: Final = 5000
"""Accounts of ended jobs that a process remembers."""


class NoDatasheet(NotFound):
    """There is no such version, or not for you."""


@dataclass(frozen=True, slots=True)
class _Made:
    """The round that made a version, and the version."""

    round_id: str
    version_id: str

    def covers(self, record: StoredRound) -> bool:
        """Return whether a round of the same job led to the version, or evaluated it."""
        if record.round.id <= self.round_id:
            return True
        model = record.manifest.manifest.model if record.round.kind is RoundKind.EVALUATE else None
        return model is not None and model.version_id == self.version_id


@dataclass(frozen=True, slots=True)
class _Line:
    """A version's own job and all releases that led to it; `unknown`: versions whose rounds are not known here."""

    job: Job | None
    releases: tuple[Release, ...]
    unknown: tuple[VersionId, ...]


@dataclass(frozen=True, slots=True)
class JobAccount:
    """What a job released: how many sums were opened, of how many sites at least, and what the noisy ones cost.

    exact: those without noise. engines: those that summed.
    """

    opened: int
    exact: int
    smallest: int | None
    engines: tuple[str, ...]
    costs: tuple[UnitCost, ...]


class Datasheets:
    """The use cases."""

    def __init__(
        self, database: Database, registry: Registry, keys: KeysDirectory, identity: Callable[[], Identity]
    ) -> None:
        self._database, self._registry, self._keys, self._identity = database, registry, keys, identity
        self._ended: dict[str, JobAccount] = {}

    async def datasheet(self, person: Principal, version_id: str) -> SignedDatasheet:
        """Return the signed datasheet of a version; raises NoDatasheet or PartyAway."""
        hidden = NoDatasheet(f"There is no version {version_id}, or not for you.")
        try:
            found = await self._registry.version_document(version_id)
        except NotFound as error:
            raise hidden from error
        person.check(*Role, federation_id=str(found.get("federation_id")), hidden=hidden)
        signed, new = await self._made_now(version_id, found)
        if new:
            try:
                await self._registry.keep_datasheet(signed)
            except (NotFound, PartyAway, PartyRefused) as refusal:  # it is kept the next time
                log.warning("datasheet.unkept", version_id=version_id, reason=refusal.detail)
        return signed

    async def keep(self, version_id: str) -> bool:
        """Have the registry keep what is to be said of a version now, and return whether that is complete.

        It is not while a head of an owner's ledger is still to come. Raises NotFound, PartyAway or PartyRefused.
        """
        signed, new = await self._made_now(version_id, await self._registry.version_document(version_id))
        if new:
            await self._registry.keep_datasheet(signed)
        return all(ledger.head is not None for ledger in signed.datasheet.ledgers)

    async def _made_now(self, version_id: str, found: dict[str, Any]) -> tuple[SignedDatasheet, bool]:
        """Return the sheet, and whether it is new: one that is kept and says the same is given again."""
        line = await self._line(version_id, found)
        try:
            account = await self._account(found, line)
        except (ValidationError, KeyError, TypeError, ValueError) as error:
            raise PartyAway("What the registry tells of the version is not understood.", retry_after_s=2) from error
        datasheet = await asyncio.to_thread(make_datasheet, account, utc_now())
        kept = await self._registry.datasheet(version_id)
        if kept is not None and _same(kept, datasheet, self._identity()):
            return kept, False
        return sign_datasheet(datasheet, self._identity()), True

    async def account(self, person: Principal, job_id: str) -> JobAccount:
        """Return what the rounds of a job released; of a job that has ended it is read once."""

        async def work(tx: Transaction) -> JobAccount:
            job = await JobRepository(tx).get(job_id)
            person.check(*Role, federation_id=job.federation_id, hidden=no_such("job", job_id))
            found = self._ended.get(job_id)
            if found is None:
                found = _job_account(await _releases(tx, job, None))
            if job.ended and len(self._ended) < MOST_KEPT:
                self._ended[job_id] = found
            return found

        return await self._database.read("job.account", work)

    async def _line(self, version_id: str, found: dict[str, Any]) -> _Line:
        """Follow a version back through the jobs that it, and each version that one started from, came of."""
        own: Job | None = None
        releases: list[Release] = []
        waiting: tuple[str, dict[str, Any]] | None = (version_id, found)
        for _ in range(MOST_ANCESTORS):
            if waiting is None:
                return _Line(own, tuple(releases), ())
            at, document = waiting
            job, released = await self._made(document)
            if job is None:
                return _Line(own, tuple(releases), (VersionId(at),))
            releases, own = [*released, *releases], own or job
            waiting = await self._start(job)
        return _Line(own, tuple(releases), (VersionId(waiting[0]),) if waiting else ())

    async def _made(self, document: dict[str, Any]) -> tuple[Job | None, Sequence[Release]]:
        """Return the job that made a version, and what it had released by then; no job where none is known here."""
        lineage = document.get("lineage") or {}
        job_id, round_id = lineage.get("job_id"), lineage.get("round_id")

        async def work(tx: Transaction) -> tuple[Job | None, Sequence[Release]]:
            try:
                job = await JobRepository(tx).get(str(job_id))
            except NotFound:
                return None, ()
            if job.federation_id != document.get("federation_id") or not await _made_by(tx, job, document):
                return None, ()
            return job, await _releases(tx, job, _Made(str(round_id), str(document.get("id"))))

        if lineage.get("kind") == "import" or job_id is None or round_id is None:
            return None, ()
        return await self._database.read("version.releases", work)

    async def _start(self, job: Job) -> tuple[str, dict[str, Any]] | None:
        """Return the version that a job started from; None for a job that began with a new model."""
        start = None if isinstance(job.spec, StatisticsSpec) else job.spec.model.version_id
        if start is None:
            return None
        try:
            return start, await self._registry.version_document(start)
        except NotFound:
            return start, {}

    async def _account(self, found: dict[str, Any], line: _Line) -> SheetFacts:
        lineage: dict[str, Any] = dict(found["lineage"])
        recipe = lineage.get("recipe")
        made = line.job is not None
        round_id = lineage.get("round_id") if made else None
        subject = SheetSubject(
            version_id=found["id"],
            model_id=found["model_id"],
            model=await self._registry.model_name(found["model_id"]),
            number=found.get("number", 0),
            federation_id=found["federation_id"],
            content_digest=found["content_digest"],
            parents=tuple(lineage.get("parents") or ()),
            job_id=line.job.id if line.job else None,
            job=line.job.spec.name if line.job else None,
            round_id=round_id,
            recipe=SheetRecipe(name=recipe["name"], digest=recipe["digest"]) if made and recipe else None,
            log_entry=await self._log_entry(round_id),
        )
        audits = tuple(_audit(audit) for audit in found.get("audits") or ())
        return SheetFacts(
            subject=subject,
            releases=line.releases,
            planned=line.job.resolved.privacy if line.job else None,
            unknown=line.unknown,
            audits=audits,
            claim_broken=any(audit.broken for audit in audits),
            utility=SheetUtility(
                metrics=dict(found.get("metrics") or {}), groups=await self._groups(line.job, found["id"])
            ),
            ledgers=await self._ledgers(found["federation_id"], line),
        )

    async def _groups(self, job: Job | None, version_id: str) -> dict[str, dict[str, float]]:
        """Return the metrics by group of a version's newest evaluation in its own job; hidden groups are left out."""
        if job is None or job.resolved.group is None:
            return {}
        name, job_id = job.resolved.group.name, job.id

        async def work(tx: Transaction) -> dict[str, dict[str, float]]:
            for record in reversed(await RoundRepository(tx).ended_of(job_id)):
                told, model = (record.result or {}).get("groups"), record.manifest.manifest.model
                if told and model is not None and model.version_id == version_id:
                    return {f"{name} = {text}": dict(metrics) for text, metrics in told.items() if metrics is not None}
            return {}

        return await self._database.read("version.groups", work)

    async def _ledgers(self, federation_id: str, line: _Line) -> tuple[SheetLedger, ...]:
        """Return how far the ledger of each owner had come after the site's last round of the version's own job."""
        job = line.job
        rounds = [one.manifest.round_id for one in line.releases if job and one.manifest.job_id == job.id]
        if job is None or not rounds:
            return ()

        async def work(tx: Transaction) -> dict[SiteId, RoundId]:
            return await TaskRepository(tx).last_parts(job.id, max(rounds))

        parts = await self._database.read("version.parts", work)
        places = {round_id: await self._log_entry(round_id) for round_id in set(parts.values())}
        return tuple(
            [
                await self._ledger(federation_id, site_id, round_id, places[round_id])
                for site_id, round_id in sorted(parts.items())
            ]
        )

    async def _ledger(self, federation_id: str, site_id: SiteId, round_id: RoundId, place: int | None) -> SheetLedger:
        found: list[LoggedLedgerHead] = []
        if place is not None:
            with suppress(NotFound, PartyAway, PartyRefused):
                found = await self._keys.ledger_heads(federation_id, site_id, place + 1, 1)
        if not found:
            return SheetLedger(site_id=site_id, round_id=round_id)
        return SheetLedger(site_id=site_id, round_id=round_id, head=found[0].head, log_entry=found[0].index)

    async def _log_entry(self, round_id: str | None) -> int | None:
        """Return the place of a round's record in the log; None where it is not there yet, or the keys service is
        away.
        """
        if round_id is None:
            return None
        try:
            return (await self._keys.logged(round_id)).index
        except (NotFound, PartyAway, PartyRefused):
            return None


def _same(kept: SignedDatasheet, datasheet: Datasheet, identity: Identity) -> bool:
    """Return whether a kept datasheet, signed with this key, says the same, and can be relied on for long enough."""
    if kept.certificate != identity.certificate.public_bytes(Encoding.DER).hex():
        return False
    made = {"made_at": kept.datasheet.made_at, "expires_at": kept.datasheet.expires_at}
    half = (datasheet.expires_at - datasheet.made_at) / 2
    return datasheet.model_copy(update=made) == kept.datasheet and kept.datasheet.expires_at > datasheet.made_at + half


def _job_account(releases: Sequence[Release]) -> JobAccount:
    return JobAccount(
        opened=len(releases),
        exact=len(exact_of(releases)),
        smallest=min((release.contributors for release in releases if release.contributors is not None), default=None),
        engines=tuple(sorted({release.manifest.engine for release in releases})),
        costs=tuple(costs_of(releases)),
    )


async def _made_by(tx: Transaction, job: Job, document: dict[str, Any]) -> bool:
    """Return whether a round of this job made the version; what was brought in from outside may say anything of
    itself.
    """
    try:
        record = await RoundRepository(tx).record(str(document["lineage"]["round_id"]))
    except NotFound:
        return False
    made = (record.result or {}).get("version_id")
    return record.round.job_id == job.id and made is not None and made == document.get("id")


def _audit(told: dict[str, Any]) -> SheetAudit:
    """Return an audit as the registry tells it; raises ValidationError or KeyError."""
    document = dict(told["document"])
    kept = {name: document[name] for name in ("kind", "sentence", "figures", "confidence", "epsilon_lower_bound")
            if name in document}  # fmt: skip
    return SheetAudit.model_validate(
        {**kept, "broken": told["broken"], "recorded_by": told["recorded_by"], "recorded_at": told["recorded_at"]}
    )


async def _releases(tx: Transaction, job: Job, made: _Made | None) -> list[Release]:
    """Return what a job's rounds released, of a version up to it and in its evaluations (all: None), oldest first."""
    records = await RoundRepository(tx).ended_of(job.id)
    last = {record.manifest.manifest.number: record.round.id for record in records}
    published = {record.manifest.manifest.number for record in records if record.round.phase is Phase.PUBLISHED}
    return [
        _release(record)
        for record in records
        if record.round.kind is not RoundKind.INITIALISE
        and (made is None or made.covers(record))
        and (
            record.round.phase is Phase.PUBLISHED
            or _seen_one_by_one(record)
            or (
                record.manifest.manifest.number not in published
                and last[record.manifest.manifest.number] == record.round.id
                and _may_be_open(record, job)
            )
        )
    ]


def _seen_one_by_one(record: StoredRound) -> bool:
    """Return whether the aggregator saw updates of a round whatever became of it: each attempt is a release to it."""
    facts = ENGINES.get(record.manifest.manifest.engine)
    return facts is not None and facts.sees_updates and record.round.got > 0


def _may_be_open(record: StoredRound, job: Job) -> bool:
    """Return whether a round that ended without a result may have shown its sum to a person.

    After one whose sites had begun to open it the job goes on with the next number; of one that was cancelled, only
    how many updates there were is known.
    """
    if record.round.phase is Phase.FAILED:
        return record.manifest.manifest.number < job.progress.settled
    return record.round.got >= record.round.min_cohort


def _release(record: StoredRound) -> Release:
    length = (record.result or {}).get("vector_length")
    contributors = record.round.got if record.round.phase is Phase.PUBLISHED else None
    return Release(record.manifest.manifest, contributors, length if isinstance(length, int) else None)
