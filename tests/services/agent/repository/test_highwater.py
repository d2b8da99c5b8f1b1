"""An agent whose state folder was put back to an earlier copy: no round gets other bytes than those that left."""

import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.effort import also, examples
from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.repository.highwater import UPLOAD, Place, Sent, SentMessages
from undersong.services.agent.repository.state import AgentState
from undersong.services.agent.settings import ConfigError
from undersong.shared.ids import Digest, JobId, RoundId, digest_of
from undersong.shared.secagg.pairwise.facts import STEPS
from undersong.shared.secagg.quantise import plan_norm

SITE = "site_test"
JOB = JobId("job_1")


def begin(platform, agent, engine: str, **changes):
    """A training round in which this site trains for a while."""
    version = platform.add_model([1.0, 2.0, 3.0, 4.0])
    changes = {"params": {"add": 0.5, "sleep_s": 1.0}, "model_ref": version, **changes}
    if engine == "pairwise":
        return platform.begin_pairwise(agent.recipe, [SITE], peers=3, **changes).manifest
    if engine == "twoserver":
        changes["encoding"] = plan_norm(summands=3, clip_norm=10.0)
    manifest = platform.manifest(agent.recipe, engine=engine, **changes)
    platform.offer(manifest)
    return manifest


def snapshot(agent, name: str) -> Path:
    """Copy the state folder of an agent that is stopped."""
    return Path(shutil.copytree(agent.folder / "state", agent.folder / name, ignore=shutil.ignore_patterns("work")))


def put_back(agent, copy: Path) -> None:
    shutil.rmtree(agent.folder / "state")
    shutil.copytree(copy, agent.folder / "state")


def sent(platform, manifest) -> set[bytes]:
    return set(platform.bodies.get(manifest.round_id, []))


def failures(platform) -> list[str]:
    return [told["code"] for end, told in platform.ended if end.startswith("failures:")]


def offer_again(platform, manifest) -> None:
    """Hand the task out again, once the long polls of an agent that is gone are over."""
    platform.end_polls()
    platform.offer(manifest, site=SITE) if manifest.engine == "pairwise" else platform.offer(manifest)


@pytest.mark.process
@pytest.mark.parametrize("engine", ["pairwise", *also("twoserver", "sealed")])
def test_a_copy_from_the_middle_of_a_round_sends_no_second_body(platform, agent, engine: str) -> None:
    """Copied while it trains, uploaded, put back, asked again: refused, and the next round goes on."""
    manifest = begin(platform, agent, engine)
    agent.start()
    platform.wait(lambda: any(beat["phase"] == "running" for beat in platform.beats))
    if engine == "pairwise":
        platform.wait(lambda: any(step == "share" for step, *_ in platform.pairwise[manifest.round_id].heard))
    agent.kill()
    copy = snapshot(agent, "copy")
    offer_again(platform, manifest)
    agent.start()
    platform.wait(lambda: len(platform.ended) == 1)
    assert platform.ended[0][0].startswith("completions:"), platform.ended
    assert len(sent(platform, manifest)) == 1
    agent.kill(signal.SIGTERM)
    put_back(agent, copy)
    offer_again(platform, manifest)
    agent.start()
    platform.wait(lambda: failures(platform))  # a completion may be told twice: with a request that a stop ended
    assert failures(platform) == ["state-restored"]
    assert len(sent(platform, manifest)) == 1
    if engine == "pairwise":
        heard = platform.pairwise[manifest.round_id].heard
        assert all(len({message for at, _, message in heard if at == step}) == 1 for step in STEPS if step != UPLOAD)
    before = len(platform.ended)
    following = begin(platform, agent, engine, job_id=manifest.job_id, number=2)
    platform.wait(lambda: len(platform.ended) > before)
    assert platform.ended[before][0].startswith("completions:"), platform.ended[before]
    assert len(sent(platform, following)) == 1


@pytest.mark.process
@pytest.mark.exhaustive
def test_a_copy_from_before_the_sum_was_opened_opens_no_other_attempt(platform, agent, refuse) -> None:
    """The copy does not know that the sum was opened: the same round of the job is not opened in another attempt."""
    unmask = r"/v1/rounds/.*/steps/unmask"
    platform.faults += [("PUT", unmask, refuse(503, "unavailable", **{"retry-after": "60"}))] * 5
    manifest = begin(platform, agent, "pairwise", params={"add": 0.5})
    agent.start()
    platform.wait(lambda: any(path.endswith("/steps/unmask") for _, path in platform.requests))
    agent.kill()
    copy = snapshot(agent, "copy")
    with sqlite3.connect(copy / "agent.sqlite") as db:  # as it was a moment earlier
        db.execute("DELETE FROM openings")
        db.execute("DELETE FROM engine_messages WHERE step = 'unmask'")
    db.close()
    platform.faults.clear()
    agent.start()
    platform.wait(lambda: platform.ended)
    agent.kill(signal.SIGTERM)
    put_back(agent, copy)
    platform.end_polls()
    begin(platform, agent, "pairwise", job_id=manifest.job_id, attempt=2, params={"add": 0.5})
    agent.start()
    platform.wait(lambda: failures(platform))
    assert failures(platform) == ["round-answered"]


def place(number: int, attempt: int = 1, round_id: str = "") -> Place:
    return Place(JOB, number, attempt, RoundId(round_id or f"rnd_{number}_{attempt}"))


def test_a_message_leaves_with_one_content_and_earlier_rounds_not_at_all(tmp_path: Path) -> None:
    marks = SentMessages(tmp_path / "high-water")
    body = Sent(place(2), UPLOAD, digest_of(b"body"))
    for _ in range(2):
        marks.reach(body)
    with pytest.raises(TaskFailure, match="state-restored"):
        marks.reach(Sent(place(2), UPLOAD, digest_of(b"other")))
    for earlier in (place(1), place(2, 1, "rnd_elsewhere")):
        with pytest.raises(TaskFailure, match="round-answered"):
            marks.reach(Sent(earlier, UPLOAD, digest_of(b"body")))
    marks.reach(Sent(place(2, 2), "unmask", digest_of(b"shares"), opens=True))
    with pytest.raises(TaskFailure, match="another attempt"):
        marks.reach(Sent(place(2, 3), "advertise", digest_of(b"keys")))
    marks.reach(Sent(place(3), UPLOAD, digest_of(b"next")))
    marks.close()


def test_one_agent_holds_the_file_and_a_broken_place_is_one_clear_line(tmp_path: Path) -> None:
    first = SentMessages(tmp_path / "high-water")
    with pytest.raises(ConfigError, match="another agent"):
        SentMessages(tmp_path / "high-water")
    first.close()
    SentMessages(tmp_path / "high-water").close()
    (tmp_path / "folder" / "high-water").mkdir(parents=True)
    with pytest.raises(ConfigError, match="high_water_file in agent"):
        SentMessages(tmp_path / "folder" / "high-water")


def test_a_disk_that_takes_nothing_lets_nothing_leave(tmp_path: Path) -> None:
    marks = SentMessages(tmp_path / "high-water")
    marks._lines._path = tmp_path / "gone" / "high-water"
    for _ in range(2):
        with pytest.raises(TaskFailure, match="mark-unwritten"):
            marks.reach(Sent(place(1), UPLOAD, digest_of(b"body")))
    with pytest.raises(ConfigError, match="high_water_file"):
        marks.seed([Sent(place(1), UPLOAD, digest_of(b"body"))])
    marks.close()


@given(st.integers(0, 400))
@settings(max_examples=examples(30), deadline=None)
def test_whatever_a_crash_cuts_off_the_rest_holds(tmp_path_factory, cut: int) -> None:
    """The line that was being written is lost or whole, and nothing that was sent depends on it."""
    path = tmp_path_factory.mktemp("cut") / "high-water"
    marks = SentMessages(path)
    for number in (1, 2):
        marks.reach(Sent(place(number), UPLOAD, digest_of(bytes([number]))))
    marks.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - min(cut, len(whole))])
    again = SentMessages(path)
    again.reach(Sent(place(3), UPLOAD, digest_of(b"three")))
    again.close()
    last = SentMessages(path)
    with pytest.raises(TaskFailure):
        last.reach(Sent(place(3), UPLOAD, digest_of(b"other")))
    last.close()


def test_a_new_file_takes_over_what_the_database_knows_and_a_lost_one_ends_open_rounds(tmp_path: Path) -> None:
    state = AgentState(tmp_path / "state")
    row = ("rnd_1_1", "tsk_1", JOB, "train", 1, 1, 2, "a" * 64, "b" * 64, 7, b"\x80", "pending", None, 1.0, 1.0)
    with state.store.writing() as db:
        db.execute(f"INSERT INTO contributions VALUES ({','.join('?' * 15)}, 'sealed')", row)
    first = SentMessages(tmp_path / "high-water")
    assert not state.keep_beside(first), "an agent from before there was such a file"
    assert not state.keep_beside(first)
    with pytest.raises(TaskFailure, match="state-restored"):
        first.reach(Sent(place(1), UPLOAD, Digest("c" * 64)))
    first.close()
    assert [found.round_id for found in state.pending()] == ["rnd_1_1"]
    (tmp_path / "high-water").unlink()
    second = SentMessages(tmp_path / "high-water")
    assert state.keep_beside(second)
    assert state.pending() == []
    with pytest.raises(TaskFailure, match="state-restored"):
        second.reach(Sent(place(1), UPLOAD, Digest("c" * 64)))
    second.close()
    state.close()


def test_the_file_stays_small(tmp_path: Path) -> None:
    path, began = tmp_path / "high-water", time.monotonic()
    marks = SentMessages(path)
    for number in range(700):
        marks.reach(Sent(place(number), UPLOAD, digest_of(b"x")))
    marks.close()
    before = path.stat().st_size
    again = SentMessages(path)
    with pytest.raises(TaskFailure):
        again.reach(Sent(place(698), UPLOAD, digest_of(b"x")))
    again.close()
    assert path.stat().st_size < before / 100, f"{time.monotonic() - began:.1f} s"


class Restores(RuleBasedStateMachine):
    """An agent that is restarted and put back at any time never sends two contents for one step of one round."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "high-water"
        self.marks = SentMessages(self.path)
        self.left: dict[tuple[str, str], set[str]] = {}
        self.opened: dict[int, set[str]] = {}
        self.newest = (0, 1)

    @rule(
        number=st.integers(1, 4), attempt=st.integers(1, 3), step=st.sampled_from(STEPS), content=st.binary(max_size=1)
    )
    def send(self, number: int, attempt: int, step: str, content: bytes) -> None:
        at = place(number, attempt)
        digest = digest_of(content)
        try:
            self.marks.reach(Sent(at, step, digest, opens=step == STEPS[-1]))
        except TaskFailure:
            return
        assert (number, attempt) >= self.newest
        self.newest = (number, attempt)
        self.left.setdefault((at.round_id, step), set()).add(digest)
        if step == STEPS[-1]:
            self.opened.setdefault(number, set()).add(at.round_id)

    @rule()
    def restart(self) -> None:
        self.marks.close()
        self.marks = SentMessages(self.path)

    @invariant()
    def one_content(self) -> None:
        assert all(len(contents) == 1 for contents in self.left.values())
        assert all(len(rounds) == 1 for rounds in self.opened.values())

    def teardown(self) -> None:
        self.marks.close()
        self.folder.cleanup()


TestRestores = Restores.TestCase
TestRestores.settings = settings(max_examples=examples(30), stateful_step_count=25, deadline=None)
