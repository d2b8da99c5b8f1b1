"""A platform is backed up while it trains, lost, restored elsewhere, and goes on; no agent answers anything twice."""

import json
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.pace import Deadline
from undersong.backup import MANIFEST, BackupError, back_up, restore
from undersong.client import Client
from undersong.local import Platform
from undersong.local.forks import Forks

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]

SITES = ("north", "east", "south")
ROUNDS = 40


def published(client: Client, job_id: str) -> list[int]:
    return [r.number for r in client.rounds(job_id) if r.kind == "train" and r.phase == "published"]


def reach(client: Client, job_id: str, rounds: int, within_s: float = 120.0) -> None:
    deadline = Deadline(within_s)
    while len(published(client, job_id)) < rounds:
        assert not deadline.over(), client.job(job_id)
        time.sleep(0.1)  # rounds go on meanwhile, and each takes a second of a processor


def answered(home: Path, site: str) -> set[tuple[str, str, int]]:
    """What an agent remembers to have answered: round, digest of its bytes, epoch."""
    with sqlite3.connect(home / "sites" / site / "state" / "agent.sqlite") as state:
        rows = state.execute("SELECT round_id, body_digest, epoch FROM contributions").fetchall()
    return {(str(row[0]), str(row[1]), int(row[2])) for row in rows}


def manifest_number(platform: Platform, round_id: str) -> int:
    """The number under which sites know the round: each is answered once, in any epoch."""
    url = f"{platform.urls['coordinator']}/v1/rounds/{round_id}/manifest"
    answer = httpx.get(url, headers={"authorization": f"Bearer {platform.profile.token}"})
    return int(answer.json()["manifest"]["number"])


def job_spec(platform: Platform) -> dict[str, Any]:
    return {
        "name": "long",
        "federation_id": platform.federation().id,
        "model": {"name": "long"},
        "recipe": {"name": "null", "params": {"parameters": 1000}},
        "data": {"dataset": "nothing"},
        "rounds": ROUNDS,
        "evaluation": {"every": 0},
        "deadlines": {"round_s": 60},
    }


@pytest.mark.slow
def test_a_restored_platform_goes_on_and_no_round_is_answered_twice(tmp_path: Path, forks: Forks) -> None:
    """The agents live on: they know of rounds that the restored platform has never heard of."""
    first, second = tmp_path / "first", tmp_path / "second"
    data, keys = tmp_path / "backup" / "data", tmp_path / "elsewhere" / "keys"
    with Platform(first, forks=forks) as platform:
        for name in SITES:
            platform.add_site(name, datasets={"datasets": [{"name": "nothing", "kind": "none", "columns": []}]})
        platform.wait_sites_online(len(SITES))
        job = platform.client.submit_job(job_spec(platform))
        reach(platform.client, job.id, 2)
        made = back_up(first, data, keys)  # in the middle of a round
        known = len(published(platform.client, job.id))
        assert made.files > 0
        reach(platform.client, job.id, known + 1)
        platform.client.pause_job(job.id)

    stores = {path.relative_to(first).as_posix() for path in first.glob("*/*.sqlite")}
    assert stores == {p.relative_to(data).as_posix() for p in data.glob("*/*.sqlite")}
    before = {name: answered(first, name) for name in SITES}
    restore(data, keys, second, sites=False)
    shutil.copytree(first / "sites", second / "sites", dirs_exist_ok=True)
    with Platform(second, forks=forks) as platform:
        platform.wait_sites_online(len(SITES))
        client = platform.client
        begun = published(client, job.id)
        assert 2 <= len(begun) <= known + 1
        reach(client, job.id, len(begun) + 2, within_s=240)
        client.cancel_job(job.id)
        rounds = client.rounds(job.id)
        assert {r.epoch for r in rounds[-2:]}.isdisjoint({r.epoch for r in rounds[: len(begun)]})
        numbers = [manifest_number(platform, r.id) for r in rounds]
        assert numbers[0] < 1000 < numbers[-1], "agents would be asked again what they answered since the backup"
    log = sqlite3.connect(second / "keys" / "keys.sqlite")
    assert log.execute("SELECT count(*) FROM log_entries WHERE type = 'restored'").fetchone()[0] >= 1
    log.close()

    for name in SITES:
        after = answered(second, name)
        assert before[name] <= after, "an agent forgot what it answered"
        for round_id, _, _ in before[name]:
            assert len({digest for one, digest, _ in after if one == round_id}) == 1, "one round, two answers"
        newest = max(epoch for _, _, epoch in before[name])
        assert any(epoch > newest for _, _, epoch in after), "nothing was trained in the new epoch"


LEFT_OUT = ("keys/high-water", "sites/a/high-water.owner", "sites/a/high-water.ledger", "sites/a/state/consent-page")


@pytest.fixture
def small_home(tmp_path: Path) -> Path:
    """The files of a platform, without one."""
    home = tmp_path / "home"
    for place in ("secrets/seal", "keys/identity/identity.pem", "tls/ca.key", "sites/a/enrol-token", *LEFT_OUT):
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).write_text("secret")
    for place in ("aggregator/blobs/ab/abcd", "aggregator/blobs/incoming/half", "sites/a/datasets.yaml"):
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).write_text("data")
    for service in ("coordinator", "aggregator", "registry", "keys", "helper"):
        (home / service).mkdir(exist_ok=True)
        with sqlite3.connect(home / service / f"{service}.sqlite") as database:
            database.execute("CREATE TABLE t (x)")
    return home


def test_keys_and_data_are_kept_apart(small_home: Path, tmp_path: Path) -> None:
    back_up(small_home, tmp_path / "data", tmp_path / "keys")
    data = {str(p.relative_to(tmp_path / "data")) for p in (tmp_path / "data").rglob("*") if p.is_file()}
    keys = {str(p.relative_to(tmp_path / "keys")) for p in (tmp_path / "keys").rglob("*") if p.is_file()}
    kept = {"secrets/seal", "keys/identity/identity.pem", "tls/ca.key", "sites/a/enrol-token"}
    assert keys == {MANIFEST, *kept}
    assert "aggregator/blobs/ab/abcd" in data
    assert {"keys/keys.sqlite", "helper/helper.sqlite"} <= data
    assert not any("high-water" in name or "incoming" in name for name in data | keys)
    assert not set(LEFT_OUT) & (data | keys)
    modes = {oct(p.stat().st_mode & 0o077) for p in (tmp_path / "keys").rglob("*")}
    assert modes == {"0o0"}
    assert (small_home / "keys" / "last-backup").exists()


def test_a_backup_that_is_not_whole_is_refused(small_home: Path, tmp_path: Path) -> None:
    data, keys = tmp_path / "data", tmp_path / "keys"
    back_up(small_home, data, keys)
    with pytest.raises(BackupError, match="exists already"):
        back_up(small_home, data, tmp_path / "keys2")
    with pytest.raises(BackupError, match="not empty"):
        restore(data, keys, small_home)
    with pytest.raises(BackupError, match="not the data"):
        restore(keys, data, tmp_path / "new")
    back_up(small_home, tmp_path / "data2", tmp_path / "keys2")
    with pytest.raises(BackupError, match="different backups"):
        restore(data, tmp_path / "keys2", tmp_path / "new")
    manifest = json.loads((data / MANIFEST).read_text())
    (data / MANIFEST).write_text(json.dumps({**manifest, "files": {"../../evil": {}}}))
    with pytest.raises(BackupError, match="evil"):
        restore(data, keys, tmp_path / "new")
    (data / MANIFEST).write_text(json.dumps(manifest))
    (data / "aggregator/blobs/ab/abcd").write_text("dat!")
    with pytest.raises(BackupError, match="not what was backed up"):
        restore(data, keys, tmp_path / "new")
    with pytest.raises(BackupError, match="no platform"):
        back_up(tmp_path / "nothing", tmp_path / "d", tmp_path / "k")
