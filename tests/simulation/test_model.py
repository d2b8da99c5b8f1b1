"""Whatever is done to a round, in whatever order, with a crash between any two effects: the books stay right.

A hypothesis state machine over the real coordinator, aggregator and keys in one process (`oneprocess`). Steps: hints
heard, lost, doubled and reordered; sweeps; sites' turns; agents that die; time. In each step one process may die at any
of its effects: before or after a commit, before or after a call. `UNDERSONG_MODEL_EXAMPLES` makes it try more.
"""

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import undersong.services.aggregator.driver.driver
import undersong.services.keys.witness
from tests.effort import ALL
from tests.simulation.oneprocess.founding import LENGTH, SITES, Founding, found
from tests.simulation.oneprocess.platform import InProcessPlatform
from undersong.services.aggregator.driver.closing import Closing
from undersong.services.keys.witness import Witness

EXAMPLES = int(os.environ.get("UNDERSONG_MODEL_EXAMPLES", "5" if ALL else "2"))
STEPS = 40
FAIR_TURNS = 150
ORDER = {
    "coordinator": ("planned", "keyed", "collecting"),
    "aggregator": ("collecting", "frozen", "aggregating", "checked"),
}
_BEFORE = "SELECT json_extract(manifest, '$.model.digest') FROM rounds WHERE id = ?"
_COUNTED = "SELECT site_id FROM contributions WHERE round_id = ? AND code IS NULL"
ENDS = ("published", "failed", "cancelled")
NAMES = st.sampled_from(["coordinator.api", "coordinator.worker", "aggregator.api", "aggregator.worker", "keys.api"])
DEATHS = st.none() | st.tuples(NAMES, st.integers(1, 14))
SERVICE = st.sampled_from(["coordinator", "aggregator"])
FATE = st.sampled_from(["heard", "heard", "twice", "lost"])
WHO = st.integers(0, SITES - 1)

pytestmark = pytest.mark.timeout(600)


class Lifecycle(RuleBasedStateMachine):
    """One job of two rounds, and everything that can happen to it."""

    founding: Founding

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="undersong-model-", dir=shared_memory()))
        self.runner = asyncio.Runner()
        self.phases: dict[tuple[str, str], str] = {}
        self.members: dict[tuple[str, str], str] = {}
        self.context: AbstractAsyncContextManager[InProcessPlatform] = InProcessPlatform.opened(
            self.founding, self.folder / "platform"
        )
        self.platform = self.runner.run(self.context.__aenter__())

    def do(self, *acts: Any) -> None:
        for act in acts:
            self.runner.run(act)

    @initialize()
    def submit(self) -> None:
        self.job_id = self.runner.run(self.platform.submit(2))

    def dying(self, death: tuple[str, int] | None, act: Any) -> None:
        """Do it, while one process may die."""
        if death is not None:
            self.platform.arm(death[0], fuse=death[1])
        self.do(act, self.platform.disarm())

    @rule(service=SERVICE, place=st.integers(0, 5), death=DEATHS, fate=FATE)
    def hint(self, service: str, place: int, death: tuple[str, int] | None, fate: str) -> None:
        """Announce some hint, not the oldest: once, twice or in vain."""
        waiting = self.platform.hints(service)
        if not waiting:
            return
        event = waiting[place % len(waiting)]
        if fate != "twice":
            self.do(self.platform.forget_hint(service, event))
        if fate != "lost":
            self.dying(death, self.platform.hear(event))

    @rule(death=DEATHS)
    def sweep_coordinator(self, death: tuple[str, int] | None) -> None:
        self.dying(death, self.platform.sweep_coordinator())

    @rule(death=DEATHS)
    def sweep_aggregator(self, death: tuple[str, int] | None) -> None:
        self.dying(death, self.platform.sweep_aggregator())

    @rule(who=WHO, death=DEATHS)
    def turn(self, who: int, death: tuple[str, int] | None) -> None:
        self.dying(death, self.platform.sites[who].turn())

    @rule(death=DEATHS, times=st.integers(1, 3))
    def turns(self, death: tuple[str, int] | None, times: int) -> None:
        """All sites go on, and the hints of what they did are heard."""
        for _ in range(times):
            self.dying(death, self.everybody())

    @rule(who=WHO)
    def agent_dies(self, who: int) -> None:
        self.platform.sites[who].crash()

    @rule(seconds=st.sampled_from([1, 4, 12, 35]), away=st.sets(WHO, max_size=1))
    def time(self, seconds: int, away: set[int]) -> None:
        self.do(self.platform.pass_time(seconds, [site for site in self.platform.sites if site.number not in away]))

    async def everybody(self) -> None:
        for site in self.platform.sites:
            await site.turn()
        for service in ("coordinator", "aggregator"):
            for event in self.platform.hints(service):
                await self.platform.forget_hint(service, event)
                await self.platform.hear(event)

    # what must hold after each step

    @invariant()
    def phases_only_go_on(self) -> None:
        for service, order in ORDER.items():
            for round_id, phase, reason in self.platform.rows(service, "SELECT id, phase, reason FROM rounds"):
                before = self.phases.get((service, round_id), order[0])
                assert phase in (*order, *ENDS)
                assert phase == before or before not in ENDS, f"{round_id} was {before} and is {phase}"
                if phase in order and before in order:
                    assert order.index(phase) >= order.index(before), f"{round_id} was {before} and is {phase}"
                assert reason or phase not in ("failed", "cancelled"), f"{round_id} {phase} without a reason"
                self.phases[service, round_id] = phase

    @invariant()
    def counters_equal_what_they_count(self) -> None:
        wrong = self.platform.rows(
            "coordinator",
            "SELECT r.id, r.outstanding, r.got FROM rounds r WHERE r.phase = 'collecting' AND ("
            " r.outstanding <> (SELECT count(*) FROM tasks t WHERE t.round_id = r.id AND t.state IN ('open', 'leased'))"
            " OR r.got <> (SELECT count(*) FROM tasks t WHERE t.round_id = r.id AND t.state = 'done'))",
        )
        assert not wrong
        wrong = self.platform.rows(
            "aggregator",
            "SELECT r.id, r.got, r.rejected FROM rounds r WHERE"
            " r.got <> (SELECT count(*) FROM contributions c WHERE c.round_id = r.id AND c.code IS NULL)"
            " OR r.rejected <> (SELECT count(*) FROM contributions c WHERE c.round_id = r.id AND c.code IS NOT NULL)",
        )
        assert not wrong

    @invariant()
    def one_round_at_a_time(self) -> None:
        query = "SELECT job_id FROM rounds WHERE phase NOT IN ('published', 'failed', 'cancelled')"
        assert len(self.platform.rows("coordinator", query)) <= 1

    @invariant()
    def one_roster_and_one_survivor_set(self) -> None:
        """The witness is asked and says one thing for an attempt; the set that a step is closed over never changes."""
        assert all(len(asks) == 1 for asks in self.platform.asked.values()), "another question for the same attempt"
        assert all(len(replies) == 1 for replies in self.platform.witnessed.values()), "two signatures for an attempt"
        for round_id, step, members in self.platform.rows("aggregator", "SELECT round_id, step, members FROM steps"):
            assert self.members.setdefault((round_id, step), members) == members

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        rows = self.platform.rows("aggregator", "SELECT round_id, site_id, digest FROM contributions")
        kept = {(round_id, site_id): digest for round_id, site_id, digest in rows}
        assert len(kept) == len(rows), "a site is twice in a round"
        for site in self.platform.sites:
            for round_id, digest in site.receipts.items():
                assert kept.get((round_id, site.id)) == digest, f"{site.name} has a receipt for nothing"

    @invariant()
    def each_published_sum_is_of_its_contributors(self) -> None:
        published = self.platform.registry.published()
        assert len({version["lineage"]["round_id"] for version in published}) == len(published), "published twice"
        for version in published:
            round_id = version["lineage"]["round_id"]
            ((before,),) = self.platform.rows("aggregator", _BEFORE, round_id)
            rows = self.platform.rows("aggregator", _COUNTED, round_id)
            change = self.platform.model(version["content_digest"]) - self.platform.model(before)
            counts = np.rint(change * len(rows))
            expected = np.zeros(LENGTH)
            for (site_id,) in rows:
                (number,) = (site.number for site in self.platform.sites if site.id == site_id)
                expected[number] = 1.0
            assert np.array_equal(counts, expected), f"{round_id}: the sum holds {counts}, the books {expected}"

    @invariant()
    def what_is_published_here_is_published_there(self) -> None:
        here = {r for (r,) in self.platform.rows("coordinator", "SELECT id FROM rounds WHERE phase = 'published'")}
        there = {r for (r,) in self.platform.rows("aggregator", "SELECT id FROM rounds WHERE phase = 'published'")}
        assert here <= there

    # the end

    def finish(self, *, sweeps: bool = True, turns: int = FAIR_TURNS) -> None:
        """From here on nothing dies: everything must come to an end."""
        for _ in range(turns):
            self.do(self.everybody(), self.platform.pass_time(2.0, self.platform.sites))
            if sweeps:
                self.do(self.platform.sweep_aggregator(), self.platform.sweep_coordinator())
            if not self.unfinished():
                return
        raise AssertionError(f"still under way: {self.unfinished()}")

    def unfinished(self) -> list[Any]:
        """What has not come to its end."""
        questions = {
            "coordinator": "SELECT id, state, reason FROM jobs WHERE state = 'running'",
            "aggregator": "SELECT id, phase, step FROM rounds WHERE phase NOT IN ('published', 'failed', 'cancelled')",
        }
        return [row for service, query in questions.items() for row in self.platform.rows(service, query)]

    def check(self) -> None:
        """Every invariant now."""
        self.phases_only_go_on()
        self.counters_equal_what_they_count()
        self.one_roster_and_one_survivor_set()
        self.nothing_acknowledged_is_lost()
        self.each_published_sum_is_of_its_contributors()

    def teardown(self) -> None:
        try:
            if hasattr(self, "job_id"):
                self.finish()
                self.check()
        finally:
            self.close()

    def close(self) -> None:
        self.runner.run(self.context.__aexit__(None, None, None))
        self.runner.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def shared_memory() -> Path | None:
    """Where files cost no disk, if the machine has that."""
    place = Path("/dev/shm")
    return place if os.access(place, os.W_OK) else None


@pytest.fixture(scope="module")
def founding(tmp_path_factory: pytest.TempPathFactory) -> Founding:
    return asyncio.run(found(tmp_path_factory.mktemp("founding")))


@pytest.fixture
def life(founding: Founding, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Lifecycle]]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    monkeypatch.setattr(undersong.services.aggregator.driver.driver, "_PUBLISH_PAUSE_S", 0.001)
    yield type("LifeHere", (Lifecycle,), {"founding": founding})
    structlog.configure(**before)


def test_the_books_are_right_whatever_happens(life: type[Lifecycle]) -> None:
    run_state_machine_as_test(
        life,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=EXAMPLES <= 5,
            database=None,
            phases=[Phase.generate, Phase.shrink] if EXAMPLES > 5 else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


# controls: each plants a bug, and the same story without it goes well


def a_site_comes_back_while_its_round_is_asked_for(machine: Lifecycle) -> None:
    """Three sites speak, the fourth fails; the worker dies after the witness signed; the fourth speaks after all."""
    machine.submit()
    platform = machine.platform
    late = platform.sites[3]
    for _ in range(8):  # until the round is open and each site has its task
        machine.do(platform.pass_time(1.0, platform.sites), platform.sweep_coordinator())
        for site in platform.sites:
            if site.lease is None:
                machine.do(site.turn())
    lease = late.lease
    assert lease is not None
    part = late.rounds[lease["round_id"]]
    machine.do(late.fail("agent-error"))
    for site in platform.sites[:3]:
        machine.do(site.turn())
    platform.arm("aggregator.worker", at="aggregator.step.witnessed")
    machine.do(
        platform.pass_time(4.0, platform.sites),
        platform.sweep_coordinator(),
        platform.sweep_aggregator(),
        platform.disarm(),
    )
    assert platform.witnessed, "the witness was never asked"
    machine.do(late._say(part, "advertise", None))
    machine.do(platform.pass_time(15.0, platform.sites), platform.sweep_aggregator())
    machine.check()


def test_a_frozen_set_is_remembered_over_a_crash(life: type[Lifecycle]) -> None:
    machine = life()
    try:
        a_site_comes_back_while_its_round_is_asked_for(machine)
    finally:
        machine.close()


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whom a step is closed over is not written down before the witness is asked."""

    async def nothing(*_: Any) -> None:
        return None

    monkeypatch.setattr(Closing, "_freeze", nothing)


def test_a_restart_that_forgets_the_frozen_set_is_caught(
    life: type[Lifecycle], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch)
    machine = life()
    try:
        with pytest.raises(AssertionError, match="another question"):
            a_site_comes_back_while_its_round_is_asked_for(machine)
    finally:
        machine.close()


def test_a_witness_that_signs_twice_is_caught(life: type[Lifecycle], monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing but its signatures would tell, which is looked at apart."""
    forget(monkeypatch)
    sign_twice(monkeypatch)
    monkeypatch.setattr(Lifecycle, "one_roster_and_one_survivor_set", only_signatures)
    machine = life()
    try:
        with pytest.raises(AssertionError, match="two signatures"):
            a_site_comes_back_while_its_round_is_asked_for(machine)
    finally:
        machine.close()


def only_signatures(machine: Lifecycle) -> None:
    assert all(len(replies) == 1 for replies in machine.platform.witnessed.values()), "two signatures for an attempt"


def sign_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was signed for an attempt is forgotten when the next question comes."""
    roster, nonce = Witness._roster, Witness._nonce
    nonces: dict[str, bytes] = {}

    def remembered(self: Witness, row: Any) -> bytes:
        if row.round_id not in nonces:
            nonces[row.round_id] = nonce(self, row)
        return nonces[row.round_id]

    async def again(self: Witness, tx: Any, row: Any, *rest: Any) -> bytes:
        row.roster_reply = row.job_id = None
        await tx.session.flush()
        return await roster(self, tx, row, *rest)

    monkeypatch.setattr(Witness, "_nonce", remembered)
    monkeypatch.setattr(Witness, "_roster", again)


def test_a_lost_hint_without_a_sweeper_is_caught(life: type[Lifecycle]) -> None:
    """Redis wiped between the ringing and the hearing: with the sweeper the job goes on, without it never."""
    for sweeps in (False, True):
        machine = life()
        try:
            machine.submit()
            for event in machine.platform.hints("coordinator"):
                machine.do(machine.platform.forget_hint("coordinator", event))
            if sweeps:
                machine.finish()
            else:
                with pytest.raises(AssertionError, match="still under way"):
                    machine.finish(sweeps=False, turns=10)
        finally:
            machine.close()
