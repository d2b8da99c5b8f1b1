"""A job: a plan of rounds, and how far it has come.

``running ⇄ paused → succeeded | failed(reason) | cancelled``. One round is in flight at a time. A job whose attempts
fail rests longer each time, then pauses with the reason; it fails only where every further attempt would fail too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np

from undersong.services.coordinator.domain.causes import causes_of, reason_sentence, remedy, unable
from undersong.services.coordinator.domain.evaluation import reading_of
from undersong.services.coordinator.domain.privacy import deviation_of
from undersong.services.coordinator.domain.progress import (
    JOB_ENDED,
    MAX_ATTEMPTS_PER_STEP,
    EarlyStop,
    Finished,
    JobState,
    Plan,
    Progress,
    Stalled,
    Step,
    next_question,
    next_step,
)
from undersong.services.coordinator.domain.recipes import context_of, standardises
from undersong.services.coordinator.domain.spec import AnySpec, JobSpec, StatisticsSpec
from undersong.services.coordinator.domain.statistics import session_of
from undersong.services.coordinator.domain.tasks import SiteTask
from undersong.services.coordinator.domain.validation import Resolved
from undersong.shared.errors import Conflict
from undersong.shared.ids import Digest, FederationId, JobId, ModelId, RoundId, VersionId
from undersong.shared.learning.metrics import Reading, by_groups, evaluation_layout
from undersong.shared.privacy.clipping import next_clip
from undersong.shared.statistics.growth import Growth
from undersong.shared.statistics.sensitivity import from_multiples
from undersong.shared.statistics.session import QuerySession
from undersong.shared.statistics.tree_options import options_of
from undersong.shared.statistics.trees import Trees
from undersong.shared.wire.manifest import RoundKind

LOOK_AGAIN: Final = timedelta(seconds=3)
"""How long a lost hint can delay a job that has no round out."""
MOST_EXCUSED: Final = 50
"""Attempts at one step that may end for want of consent before they count as failures."""


class JobOver(Conflict):
    """The job is over."""


class ClaimNotBroken(Conflict):
    """No privacy audit refuted the claim of this version of the job."""


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What the aggregator published for a round: a model version or sums, over `count` sites.

    within: the noisy share of updates that were within the round's clip norm, where that moves. loss: the sites' mean
    loss in a round of training, where it is opened.
    """

    count: int
    version_id: VersionId | None = None
    digest: Digest | None = None
    values: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    within: float | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job with its progress; `round_id` is the round in flight.

    `context` of a training job goes to its sites. That of a statistics job holds what its rounds opened, by their
    number, goes nowhere and is erased when the job ends; `results` is what may be shown.
    """

    id: JobId
    federation_id: FederationId
    spec: AnySpec
    resolved: Resolved
    created_by: str
    created_at: datetime
    next_check_at: datetime
    state: JobState = JobState.RUNNING
    version: int = 1
    reason: str | None = None
    model_id: ModelId | None = None
    version_id: VersionId | None = None
    version_digest: Digest | None = None
    context: Mapping[str, list[float]] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    results: tuple[Mapping[str, Any], ...] | None = None
    last_failure: str | None = None
    round_id: RoundId | None = None
    waiting_since: datetime | None = None
    finished_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether it succeeded, failed or was cancelled."""
        return self.state in JOB_ENDED

    @property
    def explanation(self) -> str | None:
        """The reason as a sentence, and what to do where the job is paused for it."""
        if self.reason is None:
            return None
        said = reason_sentence(self.reason)
        return f"{said} {remedy(self.reason, self.progress.causes)}" if self.state is JobState.PAUSED else said

    @property
    def layout(self) -> str:
        """The layout of the evaluation sums (see `undersong.shared.learning.metrics`); of a job that trains."""
        if isinstance(self.spec, StatisticsSpec):
            raise TypeError("a statistics job evaluates nothing")
        group = self.resolved.group
        groups = len(group.categories or ()) if group is not None else 0
        return by_groups(evaluation_layout(self.resolved.recipe, self.spec.recipe.params), groups)

    @property
    def reading(self) -> Reading:
        """What the job wants to know from those sums."""
        if isinstance(self.spec, StatisticsSpec):
            raise TypeError("a statistics job evaluates nothing")
        return reading_of(self.spec.evaluation, self.spec.data, self.resolved.recipe, self.spec.recipe.params)

    @property
    def plan(self) -> Plan:
        """What the job is to do; one that trains."""
        if isinstance(self.spec, StatisticsSpec):
            raise TypeError("a statistics job trains nothing")
        stop = self.spec.evaluation.early_stop
        return Plan(
            rounds=self.spec.rounds,
            statistics=self.spec.trains and standardises(self.resolved.recipe, self.spec.recipe.params),
            evaluate_every=self.spec.evaluation.every,
            early_stop=EarlyStop(stop.metric, stop.mode, stop.patience) if stop else None,
            grows=self.growth is not None,
        )

    @property
    def growth(self) -> Growth | None:
        """The growing model of a job whose recipe makes it of rounds of sums; None of any other job."""
        found, spec = self.resolved, self.spec
        if isinstance(spec, StatisticsSpec) or not spec.trains or found.recipe.grows is None:
            return None
        columns = {column.name: column for column in found.columns}
        features = tuple(columns[name] for name in found.features)
        return Growth(features, options_of(spec.recipe.params), spec.rounds, found.label or "", self.context)

    def resting(self, now: datetime) -> bool:
        """Return whether the job waits a while after a failed attempt before it makes another."""
        failing = self.last_failure is not None and self.waiting_since is None
        return failing and 0 < self.progress.tries < MAX_ATTEMPTS_PER_STEP and now < self.next_check_at

    def next(self) -> Step | Finished | Stalled | None:
        """Return what to plan now: nothing while a round is in flight, or the job is paused or over."""
        if self.state is not JobState.RUNNING or self.round_id is not None:
            return None
        if isinstance(self.spec, StatisticsSpec):
            return next_question(self.progress, self.last_failure)
        return next_step(self.plan, self.progress, self.last_failure)

    def session(self) -> QuerySession:
        """Return a statistics job's queries, after what was opened so far."""
        if not isinstance(self.spec, StatisticsSpec):
            raise TypeError("only a statistics job asks queries")
        return session_of(self.spec, self.resolved, [self.context[str(at)] for at in range(self.progress.asked)])

    def fits(self, sums: Sequence[float]) -> None:
        """Raise `SumsMisfit`, `TreesInvalid` or `VocabularyInvalid` where a round of sums cannot have opened these."""
        if (growth := self.growth) is not None:
            growth.take(sums)
        elif not isinstance(self.spec, StatisticsSpec):
            self.told(sums)
        else:
            session = self.session()
            session.take(self._in_units(session, sums))

    def _in_units(self, session: QuerySession, opened: Sequence[float]) -> Sequence[float]:
        """Return what a round opened as sums: those of a private round come as multiples of what one row changes."""
        if self.resolved.privacy is None or session.asked is None:
            return opened
        try:
            return [float(value) for value in from_multiples(session.asked, np.asarray(opened, np.float64))]
        except ValueError:
            return opened  # of another length: the session refuses it

    @property
    def lacks_model(self) -> bool:
        """Whether the registry has to be asked for a model before a round is planned."""
        return self.model_id is None and not isinstance(self.spec, StatisticsSpec)

    def starting_from(self, version_id: VersionId, digest: Digest, model_id: ModelId) -> "Job":
        """Train on from a version that is there already, or only evaluate it as one of its own model's."""
        trains = isinstance(self.spec, JobSpec) and self.spec.trains
        job = replace(self, version_id=version_id, version_digest=digest, model_id=None if trains else model_id)
        return replace(job, progress=replace(self.progress, has_model=True))

    def started(self, round_id: RoundId, now: datetime) -> "Job":
        """Return the job with a round planned."""
        return replace(self, round_id=round_id, waiting_since=None, next_check_at=now + LOOK_AGAIN)

    def waiting(self, now: datetime, *, afresh: bool = False) -> "Job":
        """Too few sites are there; look again later. `afresh`: the time of waiting begins now."""
        since = now if afresh else self.waiting_since or now
        return replace(self, waiting_since=since, next_check_at=now + LOOK_AGAIN)

    def with_model(self, model_id: ModelId) -> "Job":
        """Return the job with the registry's model for its results."""
        return replace(self, model_id=model_id)

    def advanced(self, kind: RoundKind, number: int, outcome: RoundOutcome, now: datetime) -> "Job":
        """Take in what a round published."""
        done = self.progress.settle(kind)
        job = replace(self, round_id=None, last_failure=None, next_check_at=now + LOOK_AGAIN)
        if isinstance(self.spec, StatisticsSpec):
            return job.answered(outcome.values, outcome.count)
        if kind is RoundKind.STATISTICS and (growth := self.growth) is not None:
            return job.grown(growth.take(outcome.values), done)
        if kind is RoundKind.STATISTICS:
            context = {**self.context, **self.told(outcome.values)}
            return replace(job, context=context, progress=replace(done, statistics_done=True))
        if kind is RoundKind.EVALUATE:
            scores = (*self.progress.scores, dict(outcome.metrics))
            return replace(job, progress=replace(done, evaluated=number, scores=scores))
        if outcome.version_id is None or outcome.digest is None:
            raise ValueError("a round that trains publishes a version")
        if kind is RoundKind.TRAIN:
            done = replace(done, trained=number, clip_norm=self._next_clip(outcome.within)).lost(outcome.loss)
            if done.diverged:  # the version that the round began from stays the job's
                return replace(job, progress=done)
        return replace(
            job,
            version_id=outcome.version_id,
            version_digest=outcome.digest,
            progress=replace(done, has_model=True),
        )

    def told(self, sums: Sequence[float]) -> dict[str, list[float]]:
        """Return what sites are told of the sums that were opened before training."""
        if isinstance(self.spec, StatisticsSpec):
            raise TypeError("a statistics job trains nothing")
        return context_of(self.resolved.recipe, self.spec.recipe.params, sums)

    def grown(self, after: Growth | Trees, done: Progress) -> "Job":
        """Take in what a round of sums led to: `trained` counts rounds of trees, all of them when they are complete."""
        complete = isinstance(after, Trees)
        found = after.to_context() if isinstance(after, Trees) else after.context
        context = {name: list(values) for name, values in found.items()}
        rounds = self.spec.rounds if isinstance(self.spec, JobSpec) else 0
        trained = rounds if isinstance(after, Trees) else after.grown
        progress = replace(done, asked=self.progress.asked + 1, trained=trained, statistics_done=complete)
        return replace(self, context=context, progress=progress)

    @property
    def clip_norm(self) -> float | None:
        """The limit of an update's norm in the next round of training; None of a statistics job or where none is set.

        It moves from round to round with an adaptive clip norm.
        """
        given = None if isinstance(self.spec, StatisticsSpec) else self.spec.update.clip_norm
        return given if self.progress.clip_norm is None else self.progress.clip_norm

    def _next_clip(self, within: float | None) -> float | None:
        """Return the clip norm after a round of training; None where it does not move."""
        terms, norm = self.resolved.privacy, self.clip_norm
        if terms is None or terms.adaptive_clip is None or norm is None:
            return None
        if within is None:
            raise ValueError("a round whose clip norm moves says how many updates were within it")
        return next_clip(terms.adaptive_clip, norm, within)

    def answered(self, opened: tuple[float, ...], sites: int) -> "Job":
        """Take in what a round of a statistics job opened over these sites' sums; raises `SumsMisfit`."""
        session, terms = self.session(), self.resolved.privacy
        sums = self._in_units(session, opened)
        session.take(sums, deviation_of(terms, sites) if terms is not None else None)
        done = session.asked is None
        context = {} if done else {**self.context, str(self.progress.asked): list(sums)}
        results = tuple(result.model_dump(mode="json") for result in session.results)
        progress = replace(
            self.progress.settle(RoundKind.STATISTICS), asked=self.progress.asked + 1, statistics_done=done
        )
        return replace(self, context=context, results=results, progress=progress)

    def setback(
        self,
        reason: str,
        now: datetime,
        tasks: Sequence[SiteTask] = (),
        *,
        spent: RoundKind | None = None,
        waits: bool = False,
    ) -> "Job":
        """Take in that a round ended without a result; `tasks` are its tasks as they ended.

        `waits` when a site's owner has not consented yet: the attempt does not count towards the pause of the job.
        `spent`, the round's kind, when its sites had begun to open the sum, and will not do it again: the step is then
        done under the next number, as a step that no site has answered yet.
        """
        progress = replace(
            self.progress if spent is None else self.progress.leave(spent),
            failures=self.progress.failures + 1,
            excused=self.progress.excused + int(waits and self.progress.failures < MOST_EXCUSED),
            causes=causes_of(tasks),
            unable={**self.progress.unable, **unable(tasks)},
        )
        return replace(self, round_id=None, progress=progress, last_failure=reason, next_check_at=now + progress.rest)

    def finish(self, state: JobState, reason: str, now: datetime) -> "Job":
        """Return the job as over."""
        if self.ended:
            raise JobOver(f"Job {self.id} is {self.state}.")
        context = {} if isinstance(self.spec, StatisticsSpec) else self.context
        return replace(self, state=state, reason=reason, finished_at=now, context=context)

    def pause(self, reason: str | None = None) -> "Job":
        """Plan no further round; `reason` where the platform, and not a person, pauses it. Idempotent.

        A reason takes the place of an earlier one.
        """
        self._must_go_on()
        known = self.state is JobState.PAUSED and reason in (None, self.reason)
        return self if known else replace(self, state=JobState.PAUSED, reason=reason)

    def resume(self, now: datetime) -> "Job":
        """Plan rounds again, with all attempts, from the last good version. Idempotent."""
        self._must_go_on()
        progress = replace(self.progress, excused=self.progress.failures, unable={}, diverged=False)
        return replace(
            self,
            state=JobState.RUNNING,
            reason=None,
            last_failure=None,
            progress=progress,
            waiting_since=None,
            next_check_at=now,
        )

    def cancel(self, now: datetime) -> "Job":
        """Stop it. Idempotent."""
        if self.state is JobState.CANCELLED:
            return self
        return replace(self.finish(JobState.CANCELLED, "cancelled", now), round_id=None)

    def _must_go_on(self) -> None:
        if self.ended:
            raise JobOver(f"Job {self.id} is {self.state}.")
