"""The course of a simulation: the coordinator's own steps, over clients that are simulated."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from undersong.errors import UndersongError
from undersong.services.coordinator.domain.jobs import Job, RoundOutcome
from undersong.services.coordinator.domain.manifests import Settled, manifest_for
from undersong.services.coordinator.domain.progress import Finished, JobState, Stalled, Step
from undersong.services.coordinator.domain.spec import JobSpec
from undersong.shared.errors import Refusal
from undersong.shared.ids import RoundId, VersionId, digest_of
from undersong.shared.learning.metrics import curves_of, metrics_of
from undersong.shared.learning.steps import next_model
from undersong.shared.learning.strategies import combined, robust_rule
from undersong.shared.learning.tensors import load
from undersong.shared.secagg.compression import Compressor, sent_length
from undersong.shared.secagg.payload import opened_sums
from undersong.shared.secagg.quantise import Decoded
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.simulate.checkpoints import Checkpoint, Folder
from undersong.simulate.clients import NO_CLIENT, Chunk, ChunkSum, ClientFault, chunks_of
from undersong.simulate.conditions import PLAIN, Conditions, SampleRule
from undersong.simulate.executors import Executor
from undersong.simulate.opening import Mean, opened_mean
from undersong.simulate.planning import rule_of
from undersong.simulate.rows import ClientRows
from undersong.simulate.sampling import Clients, answering, cohort_of, slowness_of, timed

MOST_FAULTS: Final = 20
TEST_ROWS: Final = 5000
"""Test rows of one chunk."""
DEADLINE_S: Final = 600.0
"""Of a job that sets none, as by a coordinator's settings."""
SIMULATED: Final = "simulated"
"""The part of a round that real ones have not: how long it took and the time since the first began, in seconds, and how
many answers came too late."""
Report = Callable[[float], None]


@dataclass
class Sums:
    """What a round's answers add up to."""

    total: Any = None
    count: int = 0
    weight: int = 0
    loss: float = 0.0
    clipped: int = 0
    faults: tuple[ClientFault, ...] = ()
    singles: list[ChunkSum] = field(default_factory=list)

    def take(self, answer: ChunkSum, *, compares: bool = False) -> None:
        """Add an answer; keep it, too, where it is that of one client and all are compared."""
        self.faults += answer.faults
        if answer.total is None:
            return
        if compares:
            self.singles.append(replace(answer, total=answer.total.copy()))
        self.total = answer.total if self.total is None else np.add(self.total, answer.total, out=self.total)
        self.count, self.weight = self.count + answer.count, self.weight + answer.weight
        self.loss, self.clipped = self.loss + answer.loss, self.clipped + answer.clipped


class Course:
    """One job over simulated clients, from wherever its folder says that it is, to its end."""

    def __init__(
        self, job: Job, rows: ClientRows, conditions: Conditions, executor: Executor, folder: Folder, report: Report
    ) -> None:
        self._rows, self._conditions, self._executor = rows, conditions, executor
        self._folder, self._report = folder, report
        self._model: bytes | None = None
        self._strategy: bytes | None = None
        self.job = job
        self._resume(folder.load())
        self._slowness = None
        self._clock_s = 0.0
        if conditions.slow is not None:
            self._slowness = slowness_of(conditions.slow, rows.population.count, rule_of(job).seed)
            self._clock_s = max((each[SIMULATED]["at_s"] for each in folder.rounds()), default=0.0)

    @property
    def spec(self) -> JobSpec:
        """The job's document."""
        if not isinstance(self.job.spec, JobSpec):
            raise TypeError("only jobs that train are simulated")
        return self.job.spec

    @property
    def model(self) -> bytes | None:
        """The newest model's file."""
        return self._model

    def run(self) -> Job:
        """Do what is left, and return the ended job; raises `UndersongError` where it cannot go on."""
        while not self.job.ended:
            step = self.job.next()
            if isinstance(step, Stalled) or step is None:
                raise self._stalled(step.reason if isinstance(step, Stalled) else "nothing to do")
            if isinstance(step, Finished):
                self.job = self.job.finish(step.state, step.reason, _now())
                self._save([])
            else:
                self._save([self._round(step)])
            self._report(self.job.progress.trained / self.spec.rounds)
        return self.job

    def _resume(self, found: Checkpoint | None) -> None:
        if found is None:
            return
        self._model, self._strategy = found.model, found.strategy
        version = None if found.version is None else VersionId(found.version)
        self.job = replace(
            self.job,
            progress=found.progress,
            context=found.context,
            version_id=version,
            version_digest=None if found.model is None else digest_of(found.model),
            created_at=found.created_at,
            finished_at=found.finished_at,
            state=JobState(found.state),
            reason=found.reason,
        )

    def _save(self, rounds: list[dict[str, Any]]) -> None:
        job = self.job
        checkpoint = Checkpoint(
            progress=job.progress,
            context=job.context,
            version=job.version_id,
            model=self._model,
            strategy=self._strategy,
            created_at=job.created_at,
            finished_at=job.finished_at,
            state=job.state.value,
            reason=job.reason,
        )
        self._folder.save(checkpoint, rounds)

    def _round(self, step: Step) -> dict[str, Any]:
        """Do a round, and return how it is told."""
        began, clients = _now(), self._rows.population
        cohort = self._cohort(step)
        remain = cohort[answering(cohort, self._drop(step), rule_of(self.job).seed, step)]
        ids = tuple(sorted(clients.id_of(client) for client in (cohort.tolist() or [0])))
        round_id = RoundId(f"rnd_simulated_{self.job.progress.settled}_{step.attempt}")
        try:
            manifest = manifest_for(self.job, step, Settled(round_id, ids, 0, self._deadline_s))
        except Refusal as refusal:
            raise UndersongError(f"round {step.task}: {refusal.detail}", remedy="correct the job file") from None
        asked = cohort.size and step.kind is not RoundKind.EVALUATE
        told = _told(manifest, step, began) | {"cohort": list(ids) if asked else []}
        tossed = self._conditions.sample.tossed
        if self._slowness is not None:
            remain, took = self._in_time(step, manifest, cohort, remain)
            told |= {SIMULATED: took}
        sums = Sums()
        if tossed or remain.size >= manifest.min_cohort:
            sums = self._sums(manifest, remain.tolist())
        told["faults"] = [
            {"site_id": fault.client, "code": fault.code, "message": fault.detail}
            for fault in sums.faults[:MOST_FAULTS]
        ]
        if sums.faults and not sums.count:
            raise self._all_failed(step, sums.faults)
        few = sums.count < (1 if tossed else manifest.min_cohort)
        if few and (step.kind is RoundKind.STATISTICS or not (tossed or step.kind is RoundKind.EVALUATE)):
            self.job = self.job.setback("quorum", _now())
            return told | {"phase": "failed", "reason": "quorum", "got": sums.count, "finished_at": _now().isoformat()}
        before = self._model
        outcome, result = self._outcome(manifest, sums)
        self.job = self.job.advanced(step.kind, step.number, outcome, _now())
        if self.job.progress.diverged:
            self._model = before
        metrics = dict(outcome.metrics) if step.kind is RoundKind.EVALUATE else None
        ended = {"phase": "published", "got": outcome.count if asked else 0, "finished_at": _now().isoformat()}
        return told | ended | {"result": result, "metrics": metrics}

    def _cohort(self, step: Step) -> Any:
        """Return the clients of a round; the first model is made by one, and all test rows are evaluated at once."""
        sample, rule, clients = self._conditions.sample, rule_of(self.job), self._rows.population
        if step.kind is RoundKind.EVALUATE:
            return np.zeros(1, np.int64)
        if step.kind is RoundKind.INITIALISE:
            sample, rule = SampleRule(), replace(rule, min=1, max=1, fraction=1.0)
        return cohort_of(sample, rule, clients, step)

    def _drop(self, step: Step) -> float:
        """Return the probability of a dropout; the first model and the evaluation depend on no client."""
        return self._conditions.drop if step.kind in (RoundKind.TRAIN, RoundKind.STATISTICS) else 0.0

    @property
    def _deadline_s(self) -> float:
        return self.spec.deadlines.round_s or DEADLINE_S

    def _in_time(
        self, step: Step, manifest: RoundManifest, cohort: Clients, remain: Clients
    ) -> tuple[Clients, dict[str, float]]:
        """Return the clients whose answers the round takes, and how its time is told.

        A round waits for all that it asked, or for those that are enough, at most until its deadline. Clients without
        rows say at once that they cannot train: no round waits for them, nor are they among those that are enough. The
        first model and an evaluation take no time.
        """
        late, took_s = 0, 0.0
        if self._slowness is not None and cohort.size and step.kind in (RoundKind.TRAIN, RoundKind.STATISTICS):
            sizes = self._rows.split.sizes
            bare = remain[(sizes[remain] == 0) & sizes.any() & (step.kind is RoundKind.TRAIN)]
            able = np.setdiff1d(remain, bare)
            share = sizes[able] / float(sizes.mean()) if sizes.any() else 1.0
            each_s = self._conditions.round_s * self._slowness[able] * share
            found = timed(able, each_s, min(manifest.target, cohort.size - bare.size), self._deadline_s)
            remain, took_s, late = np.union1d(found.takes, bare), found.seconds, found.late
        self._clock_s += took_s
        return remain, {"took_s": took_s, "at_s": self._clock_s, "late": late}

    def _sums(self, manifest: RoundManifest, clients: list[int]) -> Sums:
        compares = manifest.kind is RoundKind.TRAIN and robust_rule(manifest.strategy.name) is not None
        chunks = [Chunk((client,)) for client in clients] if compares else chunks_of(clients)
        if manifest.kind is RoundKind.EVALUATE:
            chunks = self._tests(manifest)
        sums, done = Sums(), self.job.progress.trained
        self._executor.prepare(manifest, self._model if manifest.model is not None else None)
        for place, answer in enumerate(self._executor.run(chunks)):
            sums.take(answer, compares=compares)
            if manifest.kind is RoundKind.TRAIN:
                self._report((done + (place + 1) / len(chunks)) / self.spec.rounds)
        return sums

    def _tests(self, manifest: RoundManifest) -> list[Chunk]:
        """Return the parts of an evaluation: test rows together, but those of each client that keeps tensors alone."""
        count, holders = int(self._rows.data.test.size), self._folder.kept.clients(manifest.number)
        if not holders or not count:
            return [Chunk(start=at, stop=min(count, at + TEST_ROWS)) for at in range(0, count, TEST_ROWS)]
        owners = self._rows.owners(rule_of(self.job).seed)
        order = np.argsort(owners, kind="stable")
        first, end = (np.searchsorted(owners[order], holders, side) for side in ("left", "right"))
        own = {
            client: tuple(order[start:stop].tolist())
            for client, start, stop in zip(holders, first.tolist(), end.tolist(), strict=True)
            if stop > start
        }
        parts = chunks_of(list(own))
        chunks = [replace(part, tests=tuple(own[client] for client in part.clients)) for part in parts]
        rest = np.flatnonzero(~np.isin(owners, holders)).tolist()
        together = [tuple(rest[at : at + TEST_ROWS]) for at in range(0, len(rest), TEST_ROWS)]
        return chunks + [Chunk(clients=(NO_CLIENT,), tests=(places,)) for places in together]

    def _outcome(self, manifest: RoundManifest, sums: Sums) -> tuple[RoundOutcome, dict[str, Any]]:
        if manifest.kind is RoundKind.TRAIN:
            return self._trained(manifest, sums)
        if manifest.kind is RoundKind.INITIALISE:
            return self._published(sums.total.tobytes(), sums.count, {})
        if manifest.kind is RoundKind.EVALUATE:
            values = np.zeros(0) if sums.total is None else sums.total
            metrics = metrics_of(self.job.layout, values, self.job.reading) if values.size else {"examples": 0.0}
            told = _result(self._rows.population.count) | {"metrics_layout": self.job.layout}
            if values.size and (curves := curves_of(self.job.layout, values, self.spec.evaluation.least_rows)):
                told["curves"] = curves
            return RoundOutcome(self._rows.population.count, values=tuple(values.tolist()), metrics=metrics), told
        plain = self._conditions.engine == PLAIN
        values = sums.total if plain else opened_sums(manifest, sums.total)
        return RoundOutcome(sums.count, values=tuple(values.tolist())), _result(sums.count)

    def _trained(self, manifest: RoundManifest, sums: Sums) -> tuple[RoundOutcome, dict[str, Any]]:
        if self._model is None:
            raise ValueError("a round of training without a model")
        base = load(self._model)
        compressor = Compressor.of(manifest, base.schema.parameters, base.schema.length)
        sent = sent_length(manifest.compression, base.schema.parameters, base.schema.length)
        asked = Mean(manifest, self._conditions, sent, self._rows.population.count, rule_of(self.job).seed)
        try:
            opened = _opened(asked, sums)
            mean = compressor.expand(opened.mean)
            if sums.singles:
                updates = np.stack([compressor.expand(_opened(asked, one).mean) for one in sums.singles])
                mean = combined(manifest.strategy.name, updates, manifest.strategy.params)
            made = next_model(
                base,
                self._strategy,
                mean,
                strategy=manifest.strategy.name,
                params=manifest.strategy.params,
                metadata={"round": manifest.round_id},
            )
            load(made.content)
        except Refusal as refusal:
            said = f"round {manifest.number} has no model: {refusal.detail}"
            raise UndersongError(said, remedy="lower the learning rate, or give update.clip_norm") from None
        self._strategy = made.state
        facts = {"weight": opened.weight, "loss": opened.loss, "clipped": opened.clipped}
        outcome, told = self._published(made.content, sums.count, {**facts, "vector_length": base.schema.length})
        return replace(outcome, within=opened.within, loss=opened.loss), told

    def _published(self, content: bytes, count: int, facts: dict[str, Any]) -> tuple[RoundOutcome, dict[str, Any]]:
        self._model = content
        version, digest = VersionId(f"ver_simulated_{self.job.progress.settled}"), digest_of(content)
        return RoundOutcome(count, version, digest), _result(count) | {"version_id": version, "digest": digest} | facts

    def _stalled(self, reason: str) -> UndersongError:
        last = next((each for each in reversed(list(self._folder.rounds())) if each["faults"]), None)
        why = "" if last is None else f"; {last['faults'][0]['site_id']}: {last['faults'][0]['message']}"
        fewest = rule_of(self.job).min
        said = f"the simulation stopped ({reason}): again and again fewer than {fewest} clients gave to a round{why}"
        return UndersongError(said, remedy="lower --drop or cohort.min, or sample more clients")

    def _all_failed(self, step: Step, faults: tuple[ClientFault, ...]) -> UndersongError:
        (code, detail), count = Counter((fault.code, fault.detail) for fault in faults).most_common(1)[0]
        said = f"all {len(faults)} clients failed in round {step.task}; {count} with {code}: {detail}"
        return UndersongError(said, remedy="correct the recipe, its parameters or the data")


def _opened(asked: Mean, sums: Sums | ChunkSum) -> Decoded:
    return opened_mean(asked, sums.total, sums.count, sums.weight, sums.loss, sums.clipped)


def _told(manifest: RoundManifest, step: Step, began: datetime) -> dict[str, Any]:
    return {
        "id": manifest.round_id,
        "job_id": manifest.job_id,
        "kind": str(manifest.kind),
        "number": step.number,
        "attempt": step.attempt,
        "reason": None,
        "engine": manifest.engine,
        "min_cohort": manifest.min_cohort,
        "target": manifest.target,
        "model_version_id": manifest.model.version_id if manifest.model is not None else None,
        "created_at": began.isoformat(),
        "result": None,
        "metrics": None,
    }


def _result(count: int) -> dict[str, Any]:
    empty = dict.fromkeys(("version_id", "digest", "weight", "loss", "clipped", "values", "metrics_layout"))
    return {**empty, "count": count}


def _now() -> datetime:
    return datetime.now(UTC)
