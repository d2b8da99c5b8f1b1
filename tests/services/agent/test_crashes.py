"""kill -9, lost replies and refusals: a site answers a round with one byte string, whatever happens."""

import json
import signal
import subprocess
import time

import psutil
import pytest

from tests.effort import also
from tests.pace import Deadline
from undersong.shared.ids import new_id
from undersong.shared.secagg.compression import Compressor
from undersong.shared.secagg.quantise import plan_encoding, plan_norm
from undersong.shared.wire.compression import Compression
from undersong.shared.wire.manifest import TRAINING_ROUND

pytestmark = pytest.mark.process

UPDATES = r"/v1/rounds/.*/updates"
COMPLETIONS = r"/v1/tasks/leases#completed"


@pytest.fixture
def trainings(agent):
    """The processes in which the recipe trained, by what it printed."""
    log = agent.folder / "state" / "recipes.log"
    said = "training in "

    def found():
        lines = log.read_text().splitlines() if log.exists() else []
        return [int(line.removeprefix(said)) for line in lines if line.startswith(said)]

    return found


def offer(platform, agent, *, repeat=1, **changes):
    version = platform.add_model([1.0, 2.0, 3.0, 4.0])
    params = {"add": 0.5, **changes.pop("params", {})}
    manifest = platform.manifest(agent.recipe, model_ref=version, params=params, **changes)
    platform.offer(manifest, repeat=repeat)
    return manifest


def test_killed_in_training_it_trains_again_and_answers_once(platform, agent, trainings):
    """Nothing was durable yet, so the next lease starts over; the old child is dead."""
    manifest = offer(platform, agent, params={"sleep_s": 2.0})
    agent.start()
    platform.wait(lambda: len(trainings()) == 1 and platform.beats)
    child = trainings()[0]
    agent.kill()
    deadline = Deadline(5)
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert not deadline.over(), "the child outlived its agent"
        time.sleep(0.05)
    platform.offer(manifest)
    agent.start()
    platform.wait(lambda: platform.ended)
    assert len(trainings()) == 2
    assert len(set(platform.bodies[manifest.round_id])) == 1


def test_killed_before_the_upload_it_sends_the_recorded_bytes(platform, agent, trainings, refuse):
    """What was durable goes out after the restart, byte for byte, and the recipe does not run again."""
    platform.faults += [("PUT", UPDATES, refuse(503, "unavailable", **{"retry-after": "60"}))] * 5
    manifest = offer(platform, agent)
    agent.start()
    platform.wait(lambda: any(path.endswith("/updates") for _, path in platform.requests))
    assert [row[1] for row in agent.rows()] == ["pending"]
    digest = agent.rows()[0][2]
    assert agent.outbox() == {f"{digest}.body": digest}
    agent.kill()
    platform.faults.clear()
    platform.offer(manifest)  # the coordinator hands the open task out again
    agent.start()
    platform.wait(lambda: len(platform.ended) == 2)
    assert {document["digest"] for _, document in platform.ended} == {digest}
    assert len(set(platform.bodies[manifest.round_id])) == 1
    assert len(trainings()) == 1


def ordered(platform, agent, place=0, **changes):
    """An order to train ahead, and the manifest of a round that collects what it made after so many versions."""
    version = platform.add_model([1.0, 2.0, 3.0, 4.0])
    encoding = plan_encoding(summands=3, max_weight=1, clip_norm=10.0, bound_value=None, modulus_bits=32)
    common = {
        "params": {"add": 0.5, **changes.pop("params", {})},
        "job_id": new_id("job"),
        "encoding": encoding,
        "strategy": {"name": "fedbuff"},
        "model": {"version_id": version[0], "digest": version[1]},
    }
    order = platform.manifest(agent.recipe, **common, kind="prepare", context={TRAINING_ROUND: [float(place), 9.0]})

    def collecting(staleness, said=None, **more):
        later = platform.add_model([9.0, 9.0, 9.0, 9.0])
        buffered = [
            {"site_id": site, "version_id": version[0], "staleness": staleness if said is None else said}
            for site in order.cohort
        ]
        given = common | {"model": {"version_id": later[0], "digest": later[1]}, "buffered": buffered}
        context = {TRAINING_ROUND: [float(place + staleness), 9.0]}
        return platform.manifest(agent.recipe, **{**given, "number": 7, "context": context, **more})

    return order, collecting


def test_a_change_trained_ahead_survives_kills_and_is_given_once_by_its_age(platform, agent, trainings, refuse):
    """Nothing leaves with the order; the round that collects gets the change, weighed; no other round gets it."""
    order, collecting = ordered(platform, agent, params={"sleep_s": 1.0})
    platform.offer(order)
    agent.start()
    platform.wait(lambda: len(trainings()) == 1)
    agent.kill()
    platform.offer(order)
    agent.start()
    platform.wait(lambda: len(platform.ended) == 1)
    assert not platform.bodies
    agent.kill()
    platform.end_polls()
    platform.offer(order)
    agent.start()
    platform.wait(lambda: len(platform.ended) == 2)
    assert len(trainings()) == 2, "what was kept is not trained again"
    folder = agent.folder / "state" / "changes"
    assert {path.suffix for path in folder.iterdir()} == {".note", ".f32"}

    for manifest, code in (
        (collecting(3, said=2), "change-age"),
        (collecting(11), "change-age"),
        (collecting(3, job_id=new_id("job")), "change-gone"),
    ):
        before = len(platform.ended)
        platform.offer(manifest)
        platform.wait(lambda before=before: len(platform.ended) > before)
        assert platform.ended[-1][1]["code"] == code
    platform.faults += [("PUT", UPDATES, refuse(503, "unavailable", **{"retry-after": "60"}))] * 5
    manifest = collecting(3)
    platform.offer(manifest)
    platform.wait(lambda: any(path.endswith("/updates") for _, path in platform.requests))
    agent.kill()  # the body is durable, and the change is marked as given
    platform.faults.clear()
    platform.offer(manifest)
    agent.start()
    platform.wait(lambda: platform.bodies.get(manifest.round_id) and platform.ended[-1][0].startswith("completions"))
    assert platform.opened(manifest.round_id).mean == pytest.approx([0.25] * 4, abs=1e-4), "0.5 / sqrt(1 + 3)"
    platform.wait(lambda: not list(folder.iterdir()))
    platform.offer(again := collecting(3, number=8))
    platform.wait(lambda: platform.ended[-1][0].startswith("failures"))
    assert platform.ended[-1][1]["code"] == "change-gone"
    assert list(platform.bodies) == [manifest.round_id]
    assert again.round_id not in platform.bodies
    assert len(trainings()) == 2


def test_killed_with_its_update_on_disk_it_counts_what_was_left_out_once(
    platform, agent, trainings, tmp_path, monkeypatch
):
    """The worst moment: what the update leaves out is durable, the update too, and no row says that it was kept."""
    armed = tmp_path / "faults" / f"agent.{agent.folder.name}"
    armed.mkdir(parents=True)
    (armed / "agent.body.written").write_text("kill")
    monkeypatch.setenv("UNDERSONG_FAULTS", str(armed.parent))
    compression = Compression(keep=0.5, error_feedback=True)
    one = offer(platform, agent, compression=compression)
    agent.start(alone=True)
    agent.process.wait(60)
    assert (armed / "agent.body.written.reached").exists()
    platform.offer(one)
    agent.start()
    platform.wait(lambda: platform.ended)
    assert len(trainings()) == 2
    assert platform.opened(one.round_id).mean == pytest.approx([0.5, 0.5], abs=1e-6)
    two = offer(platform, agent, compression=compression, job_id=one.job_id, number=2, seed=2)
    platform.wait(lambda: len(platform.ended) == 2)
    earlier, later = (Compressor.of(each, 4, 4).chosen for each in (one, two))
    wanted = [0.5 if at in earlier else 1.0 for at in later]
    assert 1.0 in wanted
    assert platform.opened(two.round_id).mean == pytest.approx(wanted, abs=1e-6)
    assert len(list((agent.folder / "state" / "residuals").rglob("*.safetensors"))) == 2


@pytest.mark.exhaustive
def test_killed_between_upload_and_completion_it_completes(platform, agent, trainings, refuse):
    """The aggregator has the bytes, the coordinator does not know: the agent says it again."""
    platform.faults += [("POST", COMPLETIONS, refuse(503, "unavailable", **{"retry-after": "60"}))] * 5
    manifest = offer(platform, agent)
    agent.start()
    platform.wait(lambda: any(path.endswith("#completed") for _, path in platform.requests))
    agent.kill()
    platform.faults.clear()
    platform.offer(manifest)  # the coordinator hands the live lease out again
    agent.start()
    platform.wait(lambda: platform.ended)
    assert len(set(platform.bodies[manifest.round_id])) == 1
    assert len(trainings()) == 1
    platform.wait(lambda: "/leases" in platform.requests[-1][1])
    assert agent.rows()[0][1] == "answered"


def test_lost_replies_change_nothing(platform, agent, trainings):
    """Every kind of answer gets lost once; the round ends as if none had."""
    lost = [UPDATES, COMPLETIONS, r"/v1/versions/.*", r"/v1/sites/self/profile", r"/v1/certificates/.*", r"/v1/enrol.*"]
    platform.faults += [(method, path, "drop") for path in lost for method in ("GET", "PUT", "POST")]
    manifest = offer(platform, agent)
    agent.start()
    platform.wait(lambda: len(platform.ended) == 2)  # the first completion's answer was lost
    assert platform.ended[0] == platform.ended[1]
    assert len(platform.bodies[manifest.round_id]) == 2
    assert len(set(platform.bodies[manifest.round_id])) == 1
    assert len(trainings()) == 1


def test_it_waits_as_long_as_it_is_told(platform, agent, trainings, refuse):
    """503 with Retry-After is obeyed."""
    platform.faults.append(("PUT", UPDATES, refuse(503, "unavailable", **{"retry-after": "2"})))
    offer(platform, agent)
    agent.start()
    platform.wait(lambda: any(path.endswith("/updates") for _, path in platform.requests))
    refused_at = time.monotonic()
    platform.wait(lambda: platform.ended)
    assert time.monotonic() - refused_at >= 1.9


def test_an_answered_round_is_not_answered_again(platform, agent, trainings):
    """The same lease twice: one training, the same bytes again. Another manifest for the round: refused."""
    manifest = offer(platform, agent, repeat=2)
    agent.start()
    platform.wait(lambda: len(platform.ended) == 2)
    first, again = platform.bodies[manifest.round_id]  # handed out again, because the platform lost them
    assert first == again
    assert len(trainings()) == 1
    other = manifest.model_copy(update={"seed": 2})
    platform.offer(other)
    platform.wait(lambda: len(platform.ended) == 3)
    assert platform.ended[2][1]["code"] == "round-answered"
    restored = manifest.model_copy(update={"round_id": "rnd_" + "0" * 26, "epoch": 1})
    platform.offer(restored)
    platform.wait(lambda: len(platform.ended) == 4)
    assert platform.ended[3][1]["code"] == "round-answered"
    stale = manifest.model_copy(update={"round_id": "rnd_" + "1" * 26, "number": 9, "epoch": 0})
    platform.offer(stale)
    platform.wait(lambda: len(platform.ended) == 5)
    assert platform.ended[4][1]["code"] == "epoch-stale"
    assert len(trainings()) == 1
    assert {round_id: len(bodies) for round_id, bodies in platform.bodies.items() if bodies} == {manifest.round_id: 2}


def test_a_closed_round_is_left(platform, agent, trainings, refuse):
    """410: the bytes are dropped, the coordinator hears why, and the agent goes on."""
    platform.faults.append(("PUT", UPDATES, refuse(410, "round-closed")))
    offer(platform, agent)
    agent.start()
    platform.wait(lambda: platform.ended)
    assert platform.ended[0][1]["code"] == "round-closed"
    assert (agent.rows()[0][1], agent.outbox()) == ("late", {})
    offer(platform, agent, number=2)
    platform.wait(lambda: len(platform.ended) == 2)
    assert platform.ended[1][0].startswith("completions:")


@pytest.mark.parametrize(("forged", "code"), [("missing", "engine-key"), *also(("by the leader", "signature-party"))])
def test_a_second_server_must_have_named_its_key_itself(platform, agent, trainings, monkeypatch, forged, code):
    """The leader could put a key of its own there; the site's engine refuses that before the recipe runs."""
    monkeypatch.setattr(platform, "helper", platform.aggregator)
    if forged == "missing":
        monkeypatch.setattr(platform, "_helper_key", lambda _: {})
    offer(platform, agent, engine="twoserver", encoding=plan_norm(summands=3, clip_norm=10.0))
    agent.start()
    platform.wait(lambda: platform.ended)
    end, told = platform.ended[0]
    assert (end.split(":")[0], told["code"]) == ("failures", code), told
    assert not platform.bodies
    assert not trainings()


FAULTS = {
    "signer": "signature-party",
    "signature": "signature-wrong",
    "digest": "model-digest",
    "policy": "policy-cohort",
    "raise": "recipe-error",
    "crash": "child-died",
    "nan": "bad-model-file",
    "shape": "model-mismatch",
}


@pytest.mark.parametrize(
    "faults", [FAULTS, *also({"revoked": "signature-revoked"})], ids=["one after the other", "revoked"]
)
def test_what_must_not_run_is_refused_with_a_code(platform, agent, faults):
    """Nothing leaves the site, and the coordinator learns the reason without a value from the data."""
    if "revoked" in faults:  # read at the start, and again after a minute
        platform.revoked.append({"keyid": platform.coordinator.keyid, "sequence": 1})
    agent.start()
    for number, (fault, code) in enumerate(faults.items()):
        offer_faulty(platform, agent, fault)
        platform.wait(lambda: len(platform.ended) > number)  # noqa: B023  (waited for here)
        end, told = platform.ended[number]
        assert (end.split(":")[0], told["code"]) == ("failures", code), (fault, told)
        assert "Smith" not in json.dumps(told)
        assert not platform.bodies
        if fault == "raise":
            assert told["message"] == "ValueError"
            assert told["trace"][-1].startswith("odd.py:")
            assert "Smith" in agent.log()


def offer_faulty(platform, agent, fault: str) -> None:
    """Offer a round in which one thing is wrong."""
    version = platform.add_model([1.0] * 4)
    if fault == "digest":
        version = (version[0], "1" * 64)
    changes = {"min_cohort": 2} if fault == "policy" else {}
    manifest = platform.manifest(agent.recipe, model_ref=version, params={"how": fault}, **changes)
    wrong = {"signature": "00" * 64, "keyid": platform.coordinator.keyid, "manifest": manifest.model_dump(mode="json")}
    platform.offer(
        manifest,
        signer=platform.aggregator if fault == "signer" else None,
        **({"signed_manifest": wrong} if fault == "signature" else {}),
    )


def test_abort_kills_the_recipe_at_once(platform, agent, trainings):
    """The platform's wish in a heartbeat's answer ends the whole group."""
    offer(platform, agent, params={"sleep_s": 60})
    agent.start()
    platform.wait(lambda: len(trainings()) == 1 and platform.beats)
    platform.desired = {"state": "abort", "reason": "cancelled", "lease_s": 30}
    child = psutil.Process(trainings()[0])
    child.wait(40)
    platform.wait(lambda: platform.requests[-1][1].endswith("/leases"))
    assert not platform.bodies
    assert not platform.ended


def test_sigterm_stops_in_time_and_says_so(platform, agent, trainings):
    """Long before the recipe would end; exit code 0, the child gone, the task given back."""
    offer(platform, agent, params={"sleep_s": 60})
    agent.start()
    platform.wait(lambda: len(trainings()) == 1 and platform.beats)
    started = time.monotonic()
    assert agent.kill(signal.SIGTERM) == 0
    assert time.monotonic() - started < 40
    assert not psutil.pid_exists(trainings()[0])
    assert platform.ended[0][1]["code"] == "interrupted"


def test_a_revoked_site_backs_off_and_comes_back(platform, agent, trainings, refuse):
    """401 on the lease is said in the log once a try, with growing pauses; the agent does not die of it."""
    platform.faults += [("POST", r"/v1/tasks/leases", refuse(401, "certificate-revoked"))] * 2
    agent.start()
    platform.wait(lambda: sum(path.endswith("/leases") for _, path in platform.requests) >= 2)
    offer(platform, agent)
    platform.wait(lambda: platform.ended)
    assert "certificate-revoked" in agent.events("agent.refused")[0]["reason"]


def test_a_used_token_is_one_clear_line(platform, agent):
    """The agent stops and says why, without a traceback."""
    (agent.folder / "token").write_text("expired")
    done = subprocess.run(agent.command("run"), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "token-expired" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_idle_agent_is_small_and_has_loaded_nothing_heavy(platform, agent):
    """80 MiB before a recipe is loaded; no child is kept, no numpy mapped."""
    agent.start(alone=True)
    platform.wait(lambda: platform.profiles and platform.requests[-1][1].endswith("/leases"))
    process = psutil.Process(agent.process.pid)
    assert process.memory_info().rss <= 80 * 2**20
    assert process.children() == []
    mapped = {region.path for region in process.memory_maps()}
    assert not [path for path in mapped if any(name in path for name in ("numpy", "torch", "pandas", "llvmlite"))]
    profile = platform.profiles[0]
    assert {spec["name"] for spec in profile["recipes"]} == {"odd", "null", "tabular"}
    assert [schema["name"] for schema in profile["datasets"]] == ["bench"]
