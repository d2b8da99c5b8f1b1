"""The agent's state: taken over from older releases, left alone when newer, secrets deleted with their round."""

import hashlib
import os
import sqlite3

import pytest

from undersong.services.agent.domain.rules import Earlier, TaskFailure
from undersong.services.agent.repository import store
from undersong.services.agent.repository.state import AgentState
from undersong.services.agent.settings import ConfigError
from undersong.services.agent.transparency.receipts import ReceiptBook
from undersong.shared.wire.manifest import RoundManifest


def test_a_script_that_has_run_at_a_site_never_changes() -> None:
    """Sites upgrade from any release: a change of the schema is a script of its own at the end."""
    found = [hashlib.sha256(script.encode()).hexdigest()[:16] for script in store._MIGRATIONS]
    assert found[:4] == ["aa74de7403e0748e", "4d91d591b400adc2", "db0b3b8de4bf7739", "0a7ee1a991beb8df"]


def test_a_newer_agents_state_is_not_touched(tmp_path) -> None:
    AgentState(tmp_path).close()
    with sqlite3.connect(tmp_path / "agent.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(RuntimeError, match="newer agent"):
        AgentState(tmp_path)


def test_the_first_versions_state_is_taken_over(tmp_path) -> None:
    """Version 1 had contributions and facts only; nothing of them is lost, and the file becomes its owner's alone."""
    with sqlite3.connect(tmp_path / "agent.sqlite") as db:
        db.executescript(f"{store._FIRST} PRAGMA user_version = 1;")
        row = ("rnd_1", "tsk_1", "job_1", "train", 1, 1, 2, "a" * 64, "b" * 64, 7, b"\x80", "pending", None, 1.0, 1.0)
        db.execute(f"INSERT INTO contributions VALUES ({','.join('?' * 15)})", row)
    db.close()
    state = AgentState(tmp_path)
    (found,) = state.pending()
    assert (found.round_id, found.engine, found.acknowledged) == ("rnd_1", "sealed", False)
    state.settle(found.round_id, Earlier.ANSWERED, {"keyid": "x"})
    (receipt,) = ReceiptBook(state).listed()
    assert (receipt["body_digest"], receipt["state"]) == ("b" * 64, "waiting")
    assert (tmp_path / "agent.sqlite").stat().st_mode & 0o777 == 0o600
    state.close()
    AgentState(tmp_path).close()


def test_secrets_are_gone_from_the_disk_when_the_round_is_over(tmp_path) -> None:
    """Not in the database, not in its log; and what was opened stays known."""
    state = AgentState(tmp_path)
    secret, manifest = os.urandom(32), a_manifest()
    state.engines.begin(manifest, manifest.digest(), b"client_round", secret, expires_at=1e12)
    state.engines.record_message(manifest, "unmask", secret + b"later", b"said", opens=True)
    assert any(secret in path.read_bytes() for path in tmp_path.glob("agent.sqlite*"))
    other = manifest.model_copy(update={"round_id": "rnd_other", "attempt": 2})
    state.engines.begin(other, other.digest(), b"client_round", b"state", expires_at=0)
    with pytest.raises(TaskFailure, match="round-answered"):
        state.engines.record_message(other, "unmask", b"state", b"said", opens=True)
    assert state.engines.message(other.round_id, "unmask") is None, "nothing is stored of a refused answer"
    assert state.engines.expired() == [other.round_id]
    assert state.engines.end(manifest.round_id, "done")
    assert not any(secret in path.read_bytes() for path in tmp_path.glob("agent.sqlite*"))
    with pytest.raises(TaskFailure, match="round-over"):
        state.engines.record_message(manifest, "again", secret, b"said", opens=False)
    assert state.engines.opened(other) == manifest.round_id
    state.close()


def a_manifest() -> RoundManifest:
    document = {
        "federation_id": "fed", "job_id": "job", "round_id": "rnd", "number": 1, "attempt": 1, "kind": "initialise",
        "engine": "pairwise", "recipe": {"name": "null", "digest": "0" * 64}, "data": {"dataset": "d"},
        "model_id": "mdl", "cohort": ["site"], "min_cohort": 1, "target": 1, "strategy": {"name": "fedavg"},
        "seed": 1, "deadline_s": 1.0,
    }  # fmt: skip
    return RoundManifest.model_validate(document)


def test_stray_bodies_go_and_epochs_never_go_back(tmp_path) -> None:
    state = AgentState(tmp_path)
    (state.outbox / "x.body").write_bytes(b"x")
    assert state.sweep_outbox() == 1
    state.saw_epoch(3)
    state.saw_epoch(1)
    assert state.highest_epoch() == 3
    assert (state.pending(), state.contribution("rnd_none"), Earlier.LATE.value) == ([], None, "late")
    state.close()


def test_a_full_disk_is_told_as_such_and_holds_nothing_up(tmp_path) -> None:
    """SQLite ends the transaction by itself; the next one begins as if nothing had been."""
    state = AgentState(tmp_path)
    pages = int(state.store._db.execute("PRAGMA page_count").fetchone()[0])
    state.store._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="disk is full"), state.store.writing() as db:
            db.execute("INSERT INTO facts VALUES ('x', zeroblob(1000000))")
    state.store._db.execute(f"PRAGMA max_page_count = {pages + 1000}")
    state.remember("x", 1)
    assert state.fact("x") == 1
    state.close()


def test_a_file_that_is_no_database_is_told_by_name(tmp_path) -> None:
    (tmp_path / "agent.sqlite").write_bytes(b"no database at all " * 100)
    with pytest.raises(ConfigError, match=r"agent\.sqlite cannot be used"):
        AgentState(tmp_path)
