"""The ledger over interleavings of tasks, crashes, records, wrong clocks and restored folders."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.effort import examples
from tests.services.agent.ledgers import DELTA, Site, budget, gaussian, private
from undersong.services.agent.domain.rules import Earlier, TaskFailure
from undersong.services.agent.ledger.adoption import adopt
from undersong.services.agent.ledger.entries import Chain, State
from undersong.services.agent.repository.highwater import UPLOAD, Place, Sent
from undersong.services.agent.transparency.receipts import ReceiptBook
from undersong.shared import clock, faults
from undersong.shared.ids import TaskId, digest_of
from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.wire.manifest import RoundManifest

FITTING = 6
RULE = replace(  # attempts at one round end with the budget here
    budget(epsilon_of([gaussian()] * FITTING, DELTA) * 1.0001, days=36_500), max_attempts=1000
)
POINTS = ("agent.charge.held", "agent.charge.noted", "agent.charge.settled")


class Crash(BaseException):
    """The process ends here."""


class Ledgers(RuleBasedStateMachine):
    """One site with rounds of two jobs, whose budget covers a few of them.

    charged: manifests for which a charge was acknowledged, so that the round may go on. left: those of which bytes were
    ready to leave. lost: those whose lines a restored folder lost, as the adopted ledger says.
    """

    def __init__(self) -> None:
        super().__init__()
        self.home = TemporaryDirectory()
        self.site = Site(Path(self.home.name))
        self.ahead = timedelta()
        clock.run_ahead(lambda: self.ahead)
        self.numbers = {"job_1": 1, "job_2": 1}
        self.attempts = {"job_1": 1, "job_2": 1}
        self.charged: dict[str, RoundManifest] = {}
        self.left: set[str] = set()
        self.published: set[str] = set()
        self.lost: set[str] = set()
        self.copies = 0
        self.copied_at: tuple[int, int] | None = None
        self.spent = 0.0
        self.voids: set[int] = set()

    def teardown(self) -> None:
        """Close what is open."""
        faults.watch(None)
        clock.run_ahead(None)
        self.site.stop()
        self.home.cleanup()

    def _now(self, job: str) -> RoundManifest:
        return private(self.numbers[job], attempt=self.attempts[job], rounds=1000, job_id=job)

    def _crashing(self, point: str | None, act: Callable[[], object]) -> bool:
        """Do something that may die at a point, and start again if it did; whether it came to its end."""

        def reach(name: str) -> None:
            if name == point:
                raise Crash

        faults.watch(reach)
        try:
            act()
        except Crash:
            faults.watch(None)  # the start settles further charges at the same point
            self.site.again()
            self.site.ledger.begin(RULE)
            return False
        finally:
            faults.watch(None)
        return True

    @property
    def damaged(self) -> bool:
        """Whether the ledger cannot be relied on."""
        return self.site.ledger.look()[1] is not None

    @rule(job=st.sampled_from(["job_1", "job_2"]), point=st.sampled_from([None, None, *POINTS[:2]]))
    def accept(self, job: str, point: str | None) -> None:
        """A task is leased, for the first time or again."""
        asked = self._now(job)
        digest = asked.digest()
        before = self.site.ledger.look()[0]
        refused: str | None = None
        fits = digest in self._counting(before) or sum(self._counting(before).values()) < FITTING
        try:
            done = self._crashing(point, lambda: self.site.ledger.charge(asked, digest, gaussian(), RULE))
        except TaskFailure as failure:
            refused, done = failure.code, False
        assert refused == ("ledger-damaged" if self.damaged else None if fits else "budget-exceeded")
        if done:
            self.charged[digest] = asked
            self.lost.discard(digest)

    @rule(job=st.sampled_from(["job_1", "job_2"]))
    def send(self, job: str) -> None:
        """The update of the round, once it is charged, is stored, noted and sent; again is the same bytes."""
        asked = self._now(job)
        digest = asked.digest()
        if self.damaged or digest not in self.charged or digest not in self._counting(self.site.ledger.look()[0]):
            return
        if self.site.state.contribution(asked.round_id) is None:
            with suppress(TaskFailure):
                self.site.sent.check(Place.of(asked), {})
                body = digest_of(digest.encode())
                self.site.state.keep(asked, digest, TaskId("task"), (body, 4), {"deadline_s": 60.0})
                self.left.add(digest)
                self.site.sent.reach(Sent(Place.of(asked), UPLOAD, body))
                self.site.state.settle(asked.round_id, Earlier.ANSWERED)

    @rule(job=st.sampled_from(["job_1", "job_2"]), point=st.sampled_from([None, POINTS[2]]))
    def publish(self, job: str, point: str | None) -> None:
        """The round's record is fetched and holds; the job goes on."""
        asked = self._now(job)
        if self.site.state.contribution(asked.round_id) is not None:
            document = json.dumps({"record": {"result": {"content_digest": "c" * 64}}}).encode()
            ReceiptBook(self.site.state).settle(asked.round_id, "verified", None, document)
            self.published.add(asked.digest())
            self._crashing(point, lambda: self.site.ledger.settle(RULE))
            self.numbers[job], self.attempts[job] = self.numbers[job] + 1, 1

    @rule(job=st.sampled_from(["job_1", "job_2"]), point=st.sampled_from([None, POINTS[2]]), new=st.booleans())
    def fail(self, job: str, point: str | None, new: bool) -> None:
        """This site leaves the round; the coordinator may plan another attempt."""
        asked = self._now(job)
        done = self._crashing(point, lambda: self.site.ledger.settle(RULE, gave_up=asked.round_id))
        if done and not self.damaged and asked.digest() not in self.left:
            self.charged.pop(asked.digest(), None)
        self.attempts[job] += new

    @rule(hours=st.sampled_from([-24 * 400, -2, 2, 24 * 8]))
    def turn_the_clock(self, hours: int) -> None:
        """The clock goes back or ahead."""
        self.ahead += timedelta(hours=hours)
        self._crashing(None, lambda: self.site.ledger.settle(RULE))

    @rule()
    def restart(self) -> None:
        """The agent is killed and started."""
        self.site.again()
        self.site.ledger.begin(RULE)

    @precondition(lambda self: not self.damaged)
    @rule(job=st.sampled_from(["job_1", "job_2"]))
    def send_and_forget(self, job: str) -> None:
        """The folder is put back to what it was just before the update was stored; hours later it is looked at."""
        self.attempts[job] += 1
        self.accept(job, None)
        self.copy()
        self.send(job)
        self.put_back()
        self.turn_the_clock(2)

    @precondition(lambda self: not self.damaged)
    @rule()
    def copy(self) -> None:
        """Keep a copy of the state folder."""
        self.site.stop()
        shutil.rmtree(self.site.folder / "copy", ignore_errors=True)
        shutil.copytree(self.site.folder / "state", self.site.folder / "copy")
        self.site.start()
        self.copies += 1

    @precondition(lambda self: self.copies)
    @rule()
    def put_back(self) -> None:
        """Put the copy in the state folder's place."""
        before = self.site.ledger.look()[0]
        self.site.stop()
        shutil.rmtree(self.site.folder / "state")
        shutil.copytree(self.site.folder / "copy", self.site.folder / "state")
        self.site.start()
        chain, fault = self.site.ledger.look()
        gone = before.head.seq > chain.head.seq
        assert (fault is not None) or not gone
        if gone:
            self.lost |= (self._counting(before).keys() | self._over(before)) - self._counting(chain).keys()
            self.spent = self._epsilon(chain)
        self.site.ledger.begin(RULE)

    @precondition(lambda self: self.damaged)
    @rule()
    def adopt(self) -> None:
        """The owner adopts the ledger."""
        (note, *_) = adopt(self.site.ledger, "put back", self.site.folder / "aside.json")
        assert note.state is State.ADOPTED
        chain, fault = self.site.ledger.look()
        assert fault is None
        assert all(charge.state is not State.HELD for charge in chain.charges.values())

    @invariant()
    def each_charge_is_there_once(self) -> None:
        """What may have left is charged, and once; lines that a restore lost are known to be lost."""
        chain, fault = self.site.ledger.look()
        counting = self._counting(chain)
        assert all(count == 1 for count in counting.values())
        for digest in self.left:
            assert digest in counting or digest in self.lost or fault is not None
        if fault is None:
            assert self.charged.keys() - self.lost <= counting.keys() | self._over(chain)

    @invariant()
    def epsilon_only_rises_but_for_what_is_proved_void(self) -> None:
        """What was spent falls by charges that became void, and by nothing else."""
        chain, fault = self.site.ledger.look()
        now = self._epsilon(chain)
        if fault is None:
            voids = {seq for seq, charge in chain.charges.items() if charge.state is State.VOID}
            for seq in voids - self.voids:
                assert chain.charges[seq].held.manifest_digest not in self.left
            assert now >= self.spent - 1e-9 or voids - self.voids
            self.voids = voids
            assert now <= RULE.budgets["heart"][0].epsilon * (1 + 1e-6)
        self.spent = now

    @staticmethod
    def _counting(chain: Chain) -> dict[str, int]:
        found: dict[str, int] = {}
        for charge in chain.charges.values():
            if charge.counts:
                found[charge.held.manifest_digest] = found.get(charge.held.manifest_digest, 0) + 1
        return found

    @staticmethod
    def _over(chain: Chain) -> set[str]:
        """Manifests whose charge became void because their time was over and nothing had left."""
        return {charge.held.manifest_digest for charge in chain.charges.values() if charge.state is State.VOID}

    @staticmethod
    def _epsilon(chain: Chain) -> float:
        return epsilon_of(chain.spent("heart", "site"), DELTA)


TestLedgers = Ledgers.TestCase
TestLedgers.settings = settings(
    max_examples=examples(150), stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
