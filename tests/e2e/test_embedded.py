"""The embedded platform for real: jobs over REST on real processes, some of which are killed meanwhile."""

import hashlib
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from tests.pace import Deadline
from undersong.cli import app
from undersong.cli.common import waits
from undersong.cli.ledger_heads import LedgerComparison, LedgerOwner, proven_heads, told_in, unlike_told
from undersong.client import ApiError, Client
from undersong.client.types import Job
from undersong.errors import StartError
from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.profile import local_profiles, save_local_profile
from undersong.services.agent.__main__ import status_of
from undersong.services.agent.ledger.book import Ledger
from undersong.services.agent.ledger.entries import Chain, Charge, State
from undersong.services.agent.ledger.mark import LedgerMark
from undersong.services.agent.repository.state import AgentState
from undersong.services.agent.settings import AgentSettings, load
from undersong.services.agent.transparency.log_watch import Seen
from undersong.shared.identity.authority import Identity, keyid_of
from undersong.shared.identity.owner import OwnerKey, sign_policy
from undersong.shared.identity.sealing import Sealer
from undersong.shared.learning import tensors
from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.secagg.twoserver.noise import JOB_NOISE, draw
from undersong.shared.transparency.ledger_heads import backward, unlike
from undersong.shared.wire.manifest import RoundManifest, SignedManifest
from undersong.shared.wire.privacy import GaussianEvent
from undersong.verify import verify_now

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]

HANGS_S = 600.0  # of the clock: a loaded machine is slow
SITES = ("north", "east", "south", "west")
EXAMPLE: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "examples" / "hospital" / "private-turns.yaml").read_text()
)
TURNS = {
    **{part: EXAMPLE[part] for part in ("engine", "strategy", "update", "evaluation")},
    "rounds": 4,
    "cohort": {"min": 2, "allow_small": True},
    "privacy": {**EXAMPLE["privacy"], "separation": 2},
}
NOTHING = {"datasets": [{"name": "nothing", "kind": "none", "columns": []}]}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Iterator[Platform]:
    with Platform(tmp_path_factory.mktemp("home"), forks=forks) as running:
        for name in SITES:
            running.add_site(name, datasets=NOTHING, agent={"watch_log_s": 1, "commit_ledger_s": 1})
        running.wait_sites_online(len(SITES))
        yield running


def null_job(platform: Platform, name: str, **changes: Any) -> dict[str, Any]:
    spec = {
        "name": name,
        "federation_id": platform.federation().id,
        "model": {"name": name},
        "recipe": {"name": "null", "params": {"parameters": 1000}},
        "data": {"dataset": "nothing"},
        "rounds": 3,
        "evaluation": {"every": 0},
        "deadlines": {"round_s": 60},
    }
    return spec | changes


def follow(client: Client, job: Job, at_round: dict[int, Callable[[], None]]) -> Job:
    """Wait for the end; call each action once, when its training round is first seen."""
    for event in client.follow(job.id, poll_s=0.1):
        if event.type == "round.collecting" and event.data["kind"] == "train":
            at_round.pop(event.data["number"], lambda: None)()
    assert not at_round, "the rounds were over before"
    return client.job(job.id)


def train_rounds(client: Client, job: Job) -> list[int]:
    return [r.number for r in client.rounds(job.id) if r.kind == "train" and r.phase == "published"]


def test_a_job_runs_to_its_model(platform: Platform, tmp_path: Path) -> None:
    client = platform.client
    job = client.wait(client.submit_job(null_job(platform, "plain")).id, timeout_s=HANGS_S)
    assert (job.state, job.reason) in {("succeeded", None), ("succeeded", job.reason)}
    assert train_rounds(client, job) == [1, 2, 3]
    model = next(model for model in client.models() if model.name == "plain")
    newest = client.versions(model.id)[-1]
    target = tmp_path / "model.safetensors"
    assert client.download(newest.id, target) == hashlib.sha256(target.read_bytes()).hexdigest()
    assert newest.lineage["job_id"] == job.id
    with httpx.Client(base_url=client.profile.coordinator_url, verify=client.profile.ca_file or True) as browser:
        browser.post("/dashboard/login", data={"token": client.profile.token})
        page = browser.get(f"/dashboard/models/{model.id}").text
        assert f"/dashboard/versions/{newest.id}/model.safetensors" in page
        assert browser.get(f"/dashboard/versions/{newest.id}/model.safetensors").content == target.read_bytes()
        csrf = re.search(r'name="csrf" value="([^"]+)"', page)[1]  # type: ignore[index]
        form = {"csrf": csrf, "alias": "champion", "version": newest.id, "reason": "newest"}
        assert browser.post(f"/dashboard/models/{model.id}/aliases/set", data=form).status_code == 303
        assert client.model(model.id).aliases == {"champion": newest.id}
        moved = browser.get(f"/dashboard/models/{model.id}").text
        assert "newest" in moved[moved.index("Who moved them") :]
        (change,) = client.alias_changes(model.id)
        assert (change.version_id, change.reason) == (newest.id, "newest")
        compared = browser.get(f"/dashboard/models/{model.id}/comparison?first=1&second=2").text
        assert "The same names, shapes and types." in compared
        browser.post(f"/dashboard/models/{model.id}/aliases/remove", data=form)
        assert client.model(model.id).aliases == {}


def test_a_budget_for_two_rounds_ends_a_job_of_three(platform: Platform) -> None:
    """The third round is refused before it trains, by name; ledger and coordinator agree on what two rounds cost."""
    private = {
        "engine": "pairwise",
        "strategy": {"name": "fedavg", "weighting": "equal"},
        "update": {"clip_norm": 1.0},
        "privacy": {"model": "distributed", "noise_multiplier": 12.0, "delta": 1e-6},
    }
    client = platform.client
    two = client.privacy_plan(null_job(platform, "budgeted", rounds=2, **private)).terms
    assert two is not None
    budget = f"{{nothing: {{unit: site, epsilon: {two.epsilon * 1.0001!r}, delta: 1.0e-6}}}}"
    policies = [platform.home / "sites" / name / "policy.yaml" for name in SITES]
    before = [path.read_text() for path in policies]
    for path, text in zip(policies, before, strict=True):
        path.write_text(text.replace("  budgets: {}\n", f"  budgets: {budget}\n"))
    try:
        job = client.wait(client.submit_job(null_job(platform, "budgeted", **private)).id, timeout_s=HANGS_S)
    finally:
        for path, text in zip(policies, before, strict=True):
            path.write_text(text)
    assert (job.state, job.progress["failures"]) == ("paused", 1), "their owners may raise the budget"
    assert [(cause.code, cause.sites) for cause in job.causes] == [("budget-exceeded", len(SITES))]
    assert train_rounds(client, job) == [1, 2]
    for name in SITES:
        charges = charges_of(platform, name, job.id)
        assert [charge.release_digest is not None for charge in charges] == [True, True]
        assert epsilon_of([charge.event for charge in charges], 1e-6) == pytest.approx(two.epsilon, rel=1e-6)
        expect_committed(platform, name)
    expect_ledgers_in_sheet(platform, job)


def expect_committed(platform: Platform, name: str) -> None:
    """A site's ledger gets into the log as far as it has come, and no head there is of another ledger."""
    client, settings = platform.client, load(platform.home / "sites" / name / "agent.yaml")
    site_id = next(site.id for site in client.sites() if site.name == name)
    deadline = Deadline(HANGS_S)
    while True:
        state = AgentState(settings.data_dir)
        ledger = Ledger(state.store, LedgerMark(settings.high_water))
        (chain, fault), secret = ledger.look(), ledger.secret()
        state.close()
        assert fault is None
        heads = [one.head for one in client.ledger_heads(site_id)]
        if heads and heads[-1].lines == chain.head.seq:
            assert secret is not None
            assert [*unlike(heads, secret, chain.hashes), *backward(heads)] == []
            assert proven_heads(client, site_id).check(client.authority().fingerprint)[: len(heads)] == heads
            return
        assert not deadline.over(), (heads, chain.head)
        time.sleep(0.2)


def expect_ledgers_in_sheet(platform: Platform, job: Job) -> None:
    """The sheet of the job's version, kept in the registry, has a head of each owner's ledger."""
    assert job.version_id is not None
    deadline = Deadline(HANGS_S)
    while True:
        signed = platform.client.datasheet(job.version_id)
        if all(ledger.head is not None for ledger in signed.datasheet.ledgers):
            break
        assert not deadline.over(), signed.datasheet.ledgers
        time.sleep(0.5)
    assert len(signed.datasheet.ledgers) == len(SITES)
    assert platform.client.datasheet(job.version_id) == signed, "it is signed once while it says the same"
    sheet = platform.home / "sheet.json"
    sheet.write_text(signed.model_dump_json())
    for name in SITES:
        settings = load(platform.home / "sites" / name / "agent.yaml")
        identity = Identity.load(settings.data_dir / "identity")
        told = told_in(sheet, LedgerOwner(identity.subject.name, keyid_of(identity.ca_certificate)))
        state = AgentState(settings.data_dir)
        ledger = Ledger(state.store, LedgerMark(settings.high_water))
        (chain, _), secret = ledger.look(), ledger.secret()
        state.close()
        assert unlike_told(chain, secret, told) == LedgerComparison([], [])
        assert chain.hashes[told.heads[-1].lines]
        assert unlike_told(Chain(), secret, told).faults != []


def charges_of(platform: Platform, name: str, job_id: str) -> list[Charge]:
    """A site's charges of a job's training rounds, once all of them are final."""
    settings = load(platform.home / "sites" / name / "agent.yaml")
    deadline = Deadline(HANGS_S)
    while True:
        state = AgentState(settings.data_dir)
        chain, fault = Ledger(state.store, LedgerMark(settings.high_water)).look()
        state.close()
        found = chain.of_job(job_id, "train")
        assert fault is None
        if found and all(charge.state is State.FINAL for charge in found):
            return found
        assert not deadline.over(), found
        time.sleep(0.2)


@pytest.mark.exhaustive  # `make test` kills services in tests/simulation/test_fault_matrix.py
@pytest.mark.parametrize("victim", ["aggregator.worker", "agent.east", "coordinator.worker", "valkey"])
def test_a_job_survives_kill_9_of_anything(platform: Platform, victim: str) -> None:
    """`make faults` kills the others too, at every step."""
    client = platform.client
    job = client.submit_job(null_job(platform, f"kill-{victim.replace('.', '-')}"))
    job = follow(client, job, {2: lambda: platform.kill(victim)})
    assert (job.state, job.reason) == ("succeeded", job.reason)
    assert train_rounds(client, job) == [1, 2, 3]


@pytest.mark.exhaustive  # `make test` kills the helper in tests/simulation/test_fault_matrix.py
@pytest.mark.parametrize("victim", ["keys.helper", "aggregator.worker"])
def test_two_servers_survive_kill_9_of_either(platform: Platform, victim: str) -> None:
    """Noise that is correlated over rounds goes on, sites take turns, and the evidence of the last version holds, with
    the helper's signature over who is in the sum.
    """
    client = platform.client
    policies = [platform.home / "sites" / name / "policy.yaml" for name in SITES]
    before = [path.read_text() for path in policies]
    for path, text in zip(policies, before, strict=True):
        path.write_text(text.replace("min_cohort: 3", "min_cohort: 2"))
    try:
        job = client.submit_job(null_job(platform, f"two-servers-{victim.replace('.', '-')}", **TURNS))
        job = follow(client, job, {3: lambda: platform.kill(victim)})
    finally:
        for path, text in zip(policies, before, strict=True):
            path.write_text(text)
    assert (job.state, job.reason) == ("succeeded", job.reason)
    assert train_rounds(client, job) == [1, 2, 3, 4]
    assert job.version_id is not None
    assert job.privacy is not None
    manifests = check_rows(platform, job)
    for name in SITES:
        charges = charges_of(platform, name, job.id)
        rows = sorted({event.row for each in charges if isinstance(event := each.event, GaussianEvent)})  # type: ignore[type-var]
        assert rows in ([1, 3], [2, 4]), "its turn comes every second round"
        assert all(len(manifests[row].cohort) == 2 for row in rows if row is not None)
    deadline = Deadline(60)
    while True:  # the record is handed to keys after the round
        try:
            found = verify_now(job.version_id, client, None)
            break
        except ApiError:
            assert not deadline.over(), "the round was never logged"
            time.sleep(0.2)
    assert found.verified, found.findings
    assert "helper" in {finding.check for finding in found.findings}


def check_rows(platform: Platform, job: Job) -> dict[int, RoundManifest]:
    """Check that each version differs from the one before by the row of noise that the servers' secrets give.

    Return the manifests of the published rounds by their row.
    """
    client = platform.client
    with closing(sqlite3.connect(platform.home / "helper" / "helper.sqlite")) as helper:
        stored = dict(helper.execute("SELECT id, manifest FROM rounds WHERE job_id = ?", (job.id,)).fetchall())
    versions = {version.id: version for version in client.versions(job.model_id or "")}
    label, found = JOB_NOISE + job.id.encode(), {}
    secrets = [
        Sealer(platform.home / "secrets" / f"{name}-seal-key").derive(label) for name in ("aggregator", "helper")
    ]
    for version in versions.values():
        if version.lineage["kind"] != "train":
            continue
        manifest = SignedManifest.model_validate_json(stored[version.lineage["round_id"]]).manifest
        assert manifest.encoding is not None
        assert manifest.noise_row is not None
        after, before = (weights(platform, each) for each in (version.id, version.lineage["parents"][0]))
        rows = [draw(manifest, after.size, secret) for secret in secrets]
        wanted = np.sum([row for row in rows if row is not None], axis=0) / (manifest.encoding.scale * 2)
        assert np.abs(after - before - wanted).max() < 1e-5 * np.abs(wanted).max()
        found[manifest.noise_row] = manifest
    assert sorted(found) == [1, 2, 3, 4]
    return found


def weights(platform: Platform, version_id: str) -> Any:
    """A version's parameters, float64."""
    target = platform.home / f"{version_id}.safetensors"
    platform.client.download(version_id, target)
    return np.asarray(tensors.load(target.read_bytes()).tensors["weights"], np.float64)


def test_agents_read_the_whole_log_and_find_nothing_wrong(platform: Platform) -> None:
    """After rounds and kills: manifests carry heads, every agent compared them, and none raised an alarm."""
    client = platform.client
    job = client.wait(client.submit_job(null_job(platform, "watched", rounds=2)).id, timeout_s=60)
    assert job.version_id is not None
    expected, deadline = client.log_head().size, Deadline(60)
    for name in SITES:
        settings = load(platform.home / "sites" / name / "agent.yaml")
        while _read(settings).size < expected:
            assert not deadline.over(), f"{name} has not read the log"
            time.sleep(0.2)
        assert status_of(settings)["alarms"] == []
    assert client.evidence(job.version_id).logged.record.manifest.manifest.log_head is not None


def _read(settings: AgentSettings) -> Seen:
    state = AgentState(settings.data_dir)
    try:
        return Seen.read(state)
    finally:
        state.close()


def test_one_dead_agent_does_not_stop_the_others(platform: Platform) -> None:
    client = platform.client
    platform.halt("agent.west")
    try:
        spec = null_job(platform, "three-of-four", rounds=1, deadlines={"round_s": 8})
        job = client.submit_job(spec)
        assert client.wait(job.id, timeout_s=HANGS_S).state == "succeeded"
    finally:
        platform.resume("agent.west")


@pytest.mark.exhaustive  # the agent's side: tests/services/agent/test_consent.py
def test_a_job_waits_for_the_consent_of_one_site_and_goes_on_by_itself(platform: Platform, tmp_path: Path) -> None:
    """Approved for two rounds, then for the third; the others run without being asked."""
    client, folder, key = platform.client, platform.home / "sites" / "north", OwnerKey.generate()
    key.save(tmp_path / "owner.pem", None)
    before = {name: (folder / name).read_bytes() for name in ("agent.yaml", "policy.yaml")}
    platform.halt("agent.north")
    owners = f"owners: {{keys: [{key.public}]}}\n".encode()
    asking = before["policy.yaml"].replace(b"consent: none", b"consent: new")
    for name, data in {"agent.yaml": before["agent.yaml"] + owners, "policy.yaml": asking}.items():
        (folder / name).write_bytes(data)
    sign_policy(folder / "policy.yaml", asking, key, 1)
    platform.resume("agent.north")
    try:
        job = client.submit_job(null_job(platform, "asked", cohort={"min": len(SITES)}, reason="Does it work?"))
        for rounds, trained in (("2", 2), ("1", 3)):
            until(lambda: waits(client.job(job.id)) is not None)
            assert str(waits(client.job(job.id))).startswith("for consent of north, since")
            assert client.job(job.id).state == "running"
            config = ["--config", str(folder / "agent.yaml"), "--key", str(tmp_path / "owner.pem")]
            told = CliRunner().invoke(app, ["consent", "approve", "asked", "--runs", rounds, *config])
            assert told.exit_code == 0, (told.output, told.exception)
            until(lambda trained=trained: len(train_rounds(client, job)) == trained)
        assert client.wait(job.id, timeout_s=HANGS_S).state == "succeeded"
    finally:
        platform.halt("agent.north")
        for name, data in before.items():
            (folder / name).write_bytes(data)
        platform.resume("agent.north")


def until(holds: Callable[[], bool]) -> None:
    deadline = Deadline(120)
    while not holds():
        assert not deadline.over()
        time.sleep(0.1)


@pytest.mark.exhaustive
def test_a_worker_submits_what_is_scheduled(platform: Platform) -> None:
    """Waits for the next full minute."""
    made = platform.client.create_schedule(null_job(platform, "each minute", rounds=1), "* * * * *")
    until(lambda: platform.client.schedule(made.id).last is not None)
    last = platform.client.schedule(made.id).last
    platform.client.delete_schedule(made.id)
    assert last is not None
    assert (last.outcome, last.reason) == ("submitted", None)
    assert last.job_id in {job.id for job in platform.client.jobs()}


def test_a_job_can_be_paused_resumed_and_cancelled(platform: Platform) -> None:
    client = platform.client
    job = client.submit_job(null_job(platform, "long", rounds=10_000))
    assert client.pause_job(job.id).state == "paused"
    assert client.resume_job(job.id).state == "running"
    assert client.cancel_job(job.id).state == "cancelled"
    assert client.cancel_job(job.id).state == "cancelled"
    assert client.job(job.id).finished


def test_a_bad_job_is_refused_with_every_fault(platform: Platform) -> None:
    spec = null_job(platform, "bad", rounds=0, engine="none", recipe={"name": "unknown"})
    with pytest.raises(ApiError) as refusal:
        platform.client.submit_job(spec)
    assert refusal.value.status == 422
    assert refusal.value.errors


def test_every_service_tells_health_and_metrics(platform: Platform) -> None:
    for url in platform.urls.values():
        assert httpx.get(f"{url}/health/live").json()["status"] == "live"
        assert "http_server_request_duration_seconds" in httpx.get(f"{url}/metrics").text


def test_a_second_platform_in_the_same_folder_is_refused(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    name = save_local_profile(platform.profile)
    with pytest.raises(StartError, match="already running"), Platform(platform.home, write_profile=True):
        pass
    assert local_profiles() == {name: platform.profile}, "it is the running platform's"


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_platform_goes_on_where_it_was(platform: Platform, forks: Forks) -> None:
    """Stopped in the middle of a job and started again from its folder, it finishes the job.

    Last in this file: what starts again is another platform, in the folder of the one that the tests above use.
    """
    job = platform.client.submit_job(null_job(platform, "on", rounds=5))
    deadline = Deadline(60)
    while not train_rounds(platform.client, job):
        assert not deadline.over(), "no round was published"
        time.sleep(0.1)
    assert not platform.client.job(job.id).finished
    platform.stop()
    with Platform(platform.home, forks=forks) as again:
        assert again.client.wait(job.id, timeout_s=HANGS_S).state == "succeeded"
        assert train_rounds(again.client, job) == list(range(1, 6))
