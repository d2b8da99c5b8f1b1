"""The law of rounds and tasks, whatever order things happen in: a round always ends, a task is never held twice, and
never more sites are counted than were asked.

A small world over the pure rules: sites lease, work, crash and come back; hints are lost, doubled and late; the
aggregator freezes, fails or sleeps; the clock only moves forward. The driver below does what the use cases do.
"""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.effort import examples
from undersong.services.coordinator.domain.rounds import GRACE, Phase, Round
from undersong.services.coordinator.domain.tasks import (
    MAX_ATTEMPTS,
    DigestDiffers,
    SiteTask,
    StaleLease,
    TaskOver,
    TaskState,
)
from undersong.services.coordinator.tasks import reclaim
from undersong.shared.errors import Refusal
from undersong.shared.ids import Digest, JobId, RoundId, SiteId, TaskId
from undersong.shared.wire.manifest import RoundKind

LEASE = timedelta(seconds=30)
DEADLINE = timedelta(minutes=5)
START = datetime(2026, 11, 22, tzinfo=UTC)


class World(RuleBasedStateMachine):
    """One round, its tasks, an aggregator that counts digests, and everything that may go wrong."""

    tokens = Bundle("tokens")

    @initialize(size=st.integers(1, 6), minimum=st.integers(1, 6))
    def begin(self, size: int, minimum: int) -> None:
        self.now = START
        self.sites = [SiteId(f"site_{at}") for at in range(size)]
        self.seen = dict.fromkeys(self.sites, START)
        self.round = Round(
            id=RoundId("rnd_1"),
            job_id=JobId("job_1"),
            kind=RoundKind.TRAIN,
            number=1,
            attempt=1,
            cohort=tuple(self.sites),
            min_cohort=min(minimum, size),
            target=size,
            deadline=DEADLINE,
            deadline_at=START + DEADLINE,
            next_check_at=START,
        )
        self.tasks: dict[SiteId, SiteTask] = {}
        self.uploads: dict[SiteId, str] = {}
        self.aggregator = "collecting"
        self.ends: list[Phase] = []
        self.serial = 0

    def put(self, site: SiteId, after: SiteTask) -> None:
        before = self.tasks[site]
        self.tasks[site] = after
        if self.round.ended:
            return
        self.round = self.round.waiting(int(after.outstanding) - int(before.outstanding))
        if after.state is TaskState.DONE and before.state is not TaskState.DONE:
            self.round = self.round.gained()

    def end(self, after: Round) -> None:
        self.round = after
        self.ends.append(after.phase)
        for site, task in self.tasks.items():
            counted = after.phase is Phase.PUBLISHED and len(self.uploads) == len(self.sites)
            self.tasks[site] = task.counted(self.now) if counted else task.expire("round-ended", self.now)

    @rule()
    def open_round(self) -> None:
        """A `planned` hint, the first or the fiftieth."""
        if self.round.phase is Phase.PLANNED:
            self.round = self.round.keyed().opened(self.now)
            self.tasks = {
                site: SiteTask(TaskId(f"task_{site}"), self.round.id, self.round.job_id, site, "train")
                for site in self.sites
            }

    @precondition(lambda self: bool(self.tasks))
    @rule(target=tokens, at=st.integers(0, 5))
    def lease(self, at: int) -> tuple[SiteId, str]:
        site = self.sites[at % len(self.sites)]
        self.seen[site] = self.now
        task = self.tasks[site]
        if task.live(self.now) and self.round.phase is Phase.COLLECTING:
            return site, task.lease_token or ""
        if task.state is TaskState.LEASED:
            self.put(site, task.lapse(self.now, site_seen=True))
        self.serial += 1
        token = f"token-{self.serial}"
        if self.round.phase is Phase.COLLECTING and not self.round.closing:
            try:
                self.put(site, self.tasks[site].lease(token, self.now, LEASE))
            except TaskOver:
                assert self.tasks[site].attempt >= MAX_ATTEMPTS or not self.tasks[site].outstanding
        return site, token

    @rule(held=tokens)
    def heartbeat(self, held: tuple[SiteId, str]) -> None:
        site, token = held
        self.seen[site] = self.now
        task = self.tasks[site]
        try:
            if self.round.phase is not Phase.COLLECTING:
                return
            if task.state is TaskState.EXPIRED and task.lease_token == token and not self.round.closing:
                self.put(site, task.revive(self.now + LEASE))
            else:
                self.put(site, task.heartbeat(token, 0.5, "train", self.now + LEASE))
        except StaleLease:
            assert task.lease_token != token or task.state is not TaskState.LEASED

    @rule(held=tokens)
    def upload_and_complete(self, held: tuple[SiteId, str]) -> None:
        site, token = held
        if self.aggregator == "collecting" and self.round.phase is Phase.COLLECTING:
            self.uploads.setdefault(site, token)
        if site in self.uploads:
            with suppress(StaleLease, DigestDiffers):
                self.put(site, self.tasks[site].complete(token, Digest("a" * 64), self.now))

    @rule(held=tokens, code=st.sampled_from(["policy-refused", "interrupted"]))
    def fail_task(self, held: tuple[SiteId, str], code: str) -> None:
        site, token = held
        before = self.tasks[site]
        try:
            self.put(site, before.fail(token, code, "no", (), self.now))
        except StaleLease:
            assert before.lease_token != token or before.state not in (TaskState.LEASED, TaskState.REJECTED)

    @rule(seconds=st.integers(1, 120))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.round.phase is Phase.COLLECTING)
    @rule()
    def sweep_tasks(self) -> None:
        for site, task in list(self.tasks.items()):
            after = reclaim(task, self.now, site_seen=self.seen[site] > self.now - LEASE)
            if after is not task:
                self.put(site, after)

    @precondition(lambda self: self.aggregator == "collecting" and bool(self.uploads))
    @rule()
    def aggregator_publishes(self) -> None:
        if len(self.uploads) == len(self.sites) or (self.round.closing and len(self.uploads) >= self.round.min_cohort):
            self.aggregator = "published"

    @rule(heard=st.booleans())
    def drive(self, heard: bool) -> None:
        """One look by hint or sweep; `heard` says whether the aggregator answers."""
        if self.round.ended:
            return
        if self.round.overdue(self.now):
            self.end(self.round.failed("deadline", self.now))
        elif self.round.phase is Phase.COLLECTING and heard:
            if self.aggregator == "published":
                self.end(self.round.published(self.now, len(self.uploads)))
            elif self.round.late(self.now) or self.round.exhausted or self.round.closing:
                self.round = self.round if self.round.closing else self.round.close()
                if len(self.uploads) < self.round.min_cohort:
                    self.end(self.round.failed("quorum", self.now))
                else:
                    self.aggregator = "published"

    @invariant()
    def laws(self) -> None:
        if not hasattr(self, "round"):
            return
        assert self.round.got <= len(self.round.cohort)
        assert len(self.ends) <= 1
        tokens = [task.lease_token for task in self.tasks.values() if task.state is TaskState.LEASED]
        assert len(tokens) == len(set(tokens))
        for task in self.tasks.values():
            assert task.attempt <= MAX_ATTEMPTS
            assert not (self.round.ended and task.outstanding)
        if self.round.phase is Phase.COLLECTING:
            assert self.round.outstanding == sum(task.outstanding for task in self.tasks.values())

    def teardown(self) -> None:
        """However it went, one look after deadline and grace ends the round, without anybody's help."""
        if not hasattr(self, "round") or self.round.ended:
            return
        self.now = max(self.now, self.round.deadline_at + GRACE)
        self.drive(heard=False)
        assert self.round.ended


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)


def test_an_ended_round_never_changes_its_end() -> None:
    """The second of two ends is refused, whichever they are."""
    base = Round(RoundId("rnd_1"), JobId("job_1"), RoundKind.TRAIN, 1, 1, (SiteId("a"),), 1, 1, DEADLINE, START, START)
    for first in (base.published(START, 1), base.failed("quorum", START), base.cancelled("job", START)):
        for again in (
            lambda done: done.published(START, 1),
            lambda done: done.failed("x", START),
            lambda done: done.cancelled("x", START),
        ):
            try:
                again(first)
            except Refusal:
                continue
            raise AssertionError("an ended round changed")
