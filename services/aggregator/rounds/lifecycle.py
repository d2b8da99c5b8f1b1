"""Opening, closing and ending rounds; one transaction each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog

from undersong.services.aggregator.domain.manifests import manifest_of, update_length
from undersong.services.aggregator.domain.refusals import (
    HelperRefused,
    ManifestUntrusted,
    RoundDiffers,
    RoundOver,
)
from undersong.services.aggregator.domain.rounds import Move, Phase, Reason, Round, due
from undersong.services.aggregator.domain.steps import step_deadline
from undersong.services.aggregator.peers.parties import Parties
from undersong.services.aggregator.peers.peer import AskRefused
from undersong.services.aggregator.repository.contributions import Contribution, ContributionRepository
from undersong.services.aggregator.repository.faults import FaultRepository
from undersong.services.aggregator.repository.rounds import WORK_TOPIC, RoundRepository
from undersong.services.aggregator.repository.rows import Made, NewRound, Stored
from undersong.services.aggregator.repository.samples import SampleRepository
from undersong.services.aggregator.repository.steps import StepRecord, StepRepository
from undersong.shared.blobs import BlobStore
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import NotFound
from undersong.shared.faults import point
from undersong.shared.identity.authority import SignatureMismatch, verify_signature
from undersong.shared.identity.directory import CertificateDirectory
from undersong.shared.identity.enrol import IdentityKeeper
from undersong.shared.identity.sealing import Sealer
from undersong.shared.identity.verify import Party
from undersong.shared.ids import Digest, RoundId, SiteId
from undersong.shared.secagg.engine import UPLOAD, Fault, Opened, ServerRound
from undersong.shared.secagg.engines import engine_facts, engine_named
from undersong.shared.telemetry.metrics import PARTICIPATION, ROUND_PHASE_SECONDS, ROUNDS, STRAGGLERS
from undersong.shared.telemetry.traces import current_trace
from undersong.shared.wire.custodian import CUSTODIAN
from undersong.shared.wire.manifest import (
    MANIFEST_CONTEXT,
    EnginePublic,
    RoundManifest,
    SignedEnginePublic,
    SignedManifest,
)
from undersong.shared.zk.samples import takes_commitments

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RoundView:
    """A round with its contributions, at a moment by the database's clock.

    `steps`: the engine's steps that take no more messages. `faults`: which sites broke the engine's protocol.
    `samples`: the sample counts that the sites in it committed to, in hexadecimal.
    """

    stored: Stored
    contributions: tuple[Contribution, ...]
    now: datetime
    steps: tuple[StepRecord, ...] = ()
    faults: tuple[Fault, ...] = ()
    samples: Mapping[SiteId, str] = field(default_factory=dict)

    @property
    def frozen(self) -> bool:
        """Whether whose updates are in the sum was fixed before anybody was asked."""
        return any(each.step == UPLOAD for each in self.steps)


class Rounds:
    """Use cases about whole rounds."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        identity: IdentityKeeper,
        sealer: Sealer,
        parties: Parties,
        *,
        finish: timedelta,
    ) -> None:
        self._database, self._blobs, self._identity, self._sealer = database, blobs, identity, sealer
        self._parties, self._finish = parties, finish

    async def open(self, signed: SignedManifest, coordinator: Party, directory: CertificateDirectory | None) -> Stored:
        """Open a round for a signed manifest, or find it open; RoundDiffers, ManifestUntrusted, EngineUnknown.

        Where the engine asks other parties to begin, they are asked first: HelperRefused, or Unavailable.
        """
        manifest = signed.manifest
        digest = manifest.digest()
        known = await self._database.read("round.find", lambda tx: RoundRepository(tx).find(manifest.round_id))
        if known is None:
            # Parties are asked outside the transaction. They answer the same question again in the same way, and of two
            # requests that open one round at a time the first to commit wins.
            await _check_signature(signed, digest, coordinator, directory)
            engine = self._prepare(manifest, digest, await self._begun(signed))
            known = await self._database.run("round.open", lambda tx: self._open(tx, signed, digest, engine))
            point("aggregator.round.opened")
        # One round id has one manifest, and so one key and one cohort.
        if known.manifest_digest != digest:
            raise RoundDiffers(f"round {manifest.round_id} was opened with manifest {known.manifest_digest[:16]}…")
        return known

    async def _begun(self, signed: SignedManifest) -> Opened:
        """Return the engine's beginning, with what other parties say where it asks them."""
        manifest, server = signed.manifest, engine_named(signed.manifest.engine).server
        opened = server.open(manifest, derive=self._sealer.derive)
        if not opened.asks:
            return opened
        try:
            replies = await self._parties.ask("begin", signed, opened.asks)
            point("aggregator.helper.begun")
            return server.begun(ServerRound(manifest, opened.secret), opened, replies)
        except AskRefused as refusal:
            raise HelperRefused(refusal.detail) from refusal

    def _prepare(self, manifest: RoundManifest, digest: Digest, opened: Opened) -> tuple[dict[str, Any], bytes]:
        """Return what the engine makes known, signed, and what it keeps, sealed."""
        document = EnginePublic(
            round_id=manifest.round_id, manifest_digest=digest, engine=manifest.engine, public=opened.public
        )
        identity = self._identity()
        signature = identity.private_key.sign(document.statement()).hex()
        public = SignedEnginePublic(document=document, keyid=identity.keyid, signature=signature)
        secret = self._sealer.seal(opened.secret, "rounds", manifest.round_id, "engine_secret")
        return public.model_dump(mode="json"), secret

    async def _open(
        self, tx: Transaction, signed: SignedManifest, digest: Digest, engine: tuple[Mapping[str, Any], bytes]
    ) -> Stored:
        rows, now, manifest = RoundRepository(tx), await tx.now(), signed.manifest
        deadline = now + timedelta(seconds=manifest.deadline_s)
        made = await rows.model_length(manifest.model.digest) if manifest.model else None
        facts = engine_facts(manifest.engine)
        step, until = None, None
        if facts.tracks_steps:
            step = facts.steps[0]
            until = step_deadline(facts.steps, step, now, deadline, now, timedelta())
        new = NewRound(
            signed=signed,
            manifest_digest=digest,
            engine_public=engine[0],
            engine_secret=engine[1],
            length=update_length(manifest, made),
            opened_at=now,
            deadline=deadline,
            finish_by=deadline + self._finish,
            step=step,
            step_deadline=until,
        )
        if await rows.add(new):
            opened = {"manifest": digest, "trace": current_trace()}
            await rows.note(manifest.round_id, "round.opened", "coordinator", opened)
            await tx.emit(WORK_TOPIC, "round.opened", manifest.round_id)
        return await rows.get(manifest.round_id)

    async def close(self, round_id: RoundId, moves: int | None = None) -> Stored:
        """Stop waiting for more updates: freeze with the accepted ones, or fail for want of a quorum. Idempotent.

        `moves`: the round's number of moves when this was decided; only the guards decide where it has moved since.
        """
        return await self.evaluate(round_id, closing=True, moves=moves)

    async def evaluate(self, round_id: RoundId, *, closing: bool = False, moves: int | None = None) -> Stored:
        """Make the transition that the guards demand, if any."""

        async def work(tx: Transaction) -> Stored:
            rows = RoundRepository(tx)
            stored = await rows.lock(round_id)
            # A round that collects again after a damaged update waits for its site: what was decided before that, and
            # arrives late, says nothing about it.
            still = moves in (None, stored.version)
            # Guards are read under the row's lock and by the database's clock: processes' clocks decide nothing.
            move = due(stored.round, await tx.now(), closing=closing and still)
            if move is None:
                return stored
            await apply(rows, stored, _named(stored, move))
            return await rows.lock(round_id)

        return await self._database.run("round.evaluate", work)

    async def cancel(self, round_id: RoundId) -> Stored:
        """End the round without a result; RoundOver when it has one. Cancelling twice changes nothing."""

        async def work(tx: Transaction) -> Stored:
            rows = RoundRepository(tx)
            stored = await rows.lock(round_id)
            if stored.round.phase is Phase.CANCELLED:
                return stored
            if stored.round.phase.over:
                raise RoundOver(f"the round is {stored.round.phase}")
            await apply(rows, stored, Move(Phase.CANCELLED))
            return await rows.lock(round_id)

        return await self._database.run("round.cancel", work)

    async def fail(self, round_id: RoundId, reason: Reason, faults: Sequence[Fault] = ()) -> None:
        """End an open round for a reason, with the sites that are to blame; nothing happens when it has ended."""

        async def work(tx: Transaction) -> None:
            rows = RoundRepository(tx)
            stored = await rows.lock(round_id)
            # The first end counts: a round that was published or cancelled meanwhile does not fail any more.
            if not stored.round.phase.over:
                await FaultRepository(tx).add(round_id, faults)
                await apply(rows, stored, Move(Phase.FAILED, reason))

        await self._database.run("round.fail", work)

    async def view(self, round_id: RoundId) -> RoundView:
        """Return the round with its contributions; raises RoundUnknown."""

        async def work(tx: Transaction) -> RoundView:
            rows = RoundRepository(tx)
            stored, contributions = await rows.get(round_id), tuple(await ContributionRepository(tx).of(round_id))
            steps = await StepRepository(tx, round_id).records() if stored.round.tracks_steps else ()
            committed: dict[SiteId, str] = {}
            if takes_commitments(manifest_of(stored.manifest)):
                sites = [each.site_id for each in contributions if each.code is None]
                committed = await SampleRepository(tx, stored.job_id).commitments(sites)
            faults = await FaultRepository(tx).of(round_id) if stored.round.tracks_steps else ()
            return RoundView(stored, contributions, await tx.now(), steps, faults, committed)

        return await self._database.read("round.view", work)

    async def scrub(self, round_id: RoundId) -> None:
        """Delete the bodies of an ended round; its digests stay."""

        async def doomed(tx: Transaction) -> list[Digest]:
            rows = RoundRepository(tx)
            # Bodies of an open round are needed until its sum is published, also after a crash of its worker.
            ended = (await rows.get(round_id)).round.phase.over
            return [c.digest for c in await ContributionRepository(tx).of(round_id)] if ended else []

        for digest in await self._database.read("round.bodies", doomed):
            await self._blobs.delete(digest)
        await self._database.run("round.scrubbed", lambda tx: RoundRepository(tx).scrubbed([round_id]))

    async def forget(self, digests: list[Digest]) -> None:
        """Delete models and states that no round needs any more."""
        for digest in digests:
            if not await self._database.read("blob.in_use", lambda tx, d=digest: RoundRepository(tx).in_use(d)):  # type: ignore[misc]
                await self._blobs.delete(digest)


async def apply(rows: RoundRepository, stored: Stored, move: Move, made: Made | None = None) -> None:
    """Make a transition in the caller's transaction, and measure it once it is committed."""
    await rows.move(stored, move, made)
    phase, round_ = stored.round.phase, stored.round
    seconds = (await rows.tx.now() - stored.moved_at).total_seconds()

    def measure() -> None:
        ROUND_PHASE_SECONDS.labels(str(phase)).observe(max(0.0, seconds))
        if move.phase.over:
            ROUNDS.labels(str(move.phase), str(move.reason or "")).inc()
            _measure_participation(round_)
        log.info("round.moved", round_id=round_.id, job_id=stored.job_id, phase=str(move.phase), reason=move.reason)

    # Metrics count what is true: a transaction that is rolled back, and run again, is counted once.
    rows.tx.after_commit(measure)


def _measure_participation(round_: Round) -> None:
    PARTICIPATION.observe(round_.got / round_.cohort_size)
    STRAGGLERS.inc(max(0, round_.cohort_size - round_.got - round_.rejected))


def _named(stored: Stored, move: Move) -> Move:
    """Return the transition with the reason that a person can do something about."""
    if move.reason is not Reason.TIME_OUT:
        return move
    facts = engine_facts(manifest_of(stored.manifest).engine)
    if facts.asks(CUSTODIAN):
        return Move(move.phase, Reason.CUSTODIANS_AWAY)
    return Move(move.phase, Reason.HELPER_AWAY) if facts.second_server and stored.round.step == UPLOAD else move


async def _check_signature(
    signed: SignedManifest, digest: Digest, coordinator: Party, directory: CertificateDirectory | None
) -> None:
    key = coordinator.public_key
    if signed.keyid != coordinator.keyid:  # the coordinator's certificate was rotated since it signed
        if directory is None:
            raise ManifestUntrusted("the manifest is not signed by the certificate that signed the request")
        try:
            holder = await directory.get(signed.keyid)
        except NotFound as error:
            raise ManifestUntrusted("the manifest is signed by an unknown certificate") from error
        if holder.subject.kind != "service" or holder.subject.name != "coordinator":
            raise ManifestUntrusted("the manifest is signed by another party than the coordinator")
        key = holder.public_key
    try:
        verify_signature(key, MANIFEST_CONTEXT, bytes.fromhex(digest), bytes.fromhex(signed.signature))
    except SignatureMismatch as error:
        raise ManifestUntrusted("the manifest's signature does not fit it") from error
