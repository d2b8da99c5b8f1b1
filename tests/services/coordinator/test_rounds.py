"""Whole jobs through the real application: from submission to the last evaluation, hints or no hints."""

import asyncio
import json
from typing import Any

import pytest

from tests.effort import also
from tests.services.coordinator.world import SiteAgent, World, profile
from undersong.services.coordinator.domain.progress import MAX_ATTEMPTS_PER_STEP

DIGEST = "cd" * 32


async def work_once(world: World, agents: list[SiteAgent]) -> list[dict[str, Any]]:
    """Every site that has a task does it."""
    done = []
    for agent in agents:
        answer = await agent.poll()
        if answer.status_code == 204:
            continue
        lease = answer.json()
        world.neighbours.upload(lease["round_id"], agent.id)
        report = await agent.report(lease, "completions", digest=DIGEST)
        assert report.status_code == 200, report.text
        assert report.json()["state"] == "done"
        done.append(lease)
    return done


async def test_a_job_runs_to_its_end_round_by_round(world: World) -> None:
    """Statistics, first model, two trainings, one evaluation: all recorded, metrics at the registry."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    kinds = []
    for _ in range(6):
        done = await work_once(world, agents)
        if not done:
            break
        kinds.append((done[0]["kind"], len(done)))
        await world.conductor.drive(done[0]["round_id"])
    assert kinds == [("statistics", 4), ("initialise", 1), ("train", 4), ("train", 4), ("evaluate", 4)]
    told = [made["manifest"]["manifest"]["context"] for made in world.neighbours.rounds.values()]
    assert [each.get("round") for each in told] == [None, None, [0, 2], [1, 2], None], "its place in the job"
    found = await world.get_job(job["id"])
    assert (found["state"], found["reason"]) == ("succeeded", "completed")
    assert found["features"] == ["age", "chol"]
    assert found["progress"]["scores"][0]["accuracy"] == 17 / 20
    assert "of the 20 rows evaluated 9 are positives" in found["cautions"][0]
    rounds = (await world.admin.get(f"/v1/jobs/{job['id']}/rounds")).json()["items"]
    assert [item["phase"] for item in rounds] == ["published"] * 5
    assert all(item["got"] == len(item["cohort"]) for item in rounds)
    assert rounds[-1]["metrics"]["accuracy"] == 17 / 20
    assert "values" not in rounds[-1]["result"]
    await world.conductor.sweep_reports()
    assert world.neighbours.metrics == [(found["version_id"], rounds[-1]["metrics"])]
    tasks = (await world.get_round(rounds[2]["id"]))["tasks"]
    assert {task["state"] for task in tasks} == {"done"}
    assert {task["site_name"] for task in tasks} == {"site-0", "site-1", "site-2", "site-3"}


async def test_a_mean_loss_that_one_site_may_have_claimed_ends_no_job_for_good(world: World) -> None:
    """It pauses with the version before, and goes on from there when it is resumed."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation, rounds=3, evaluation={"every": 0})
    await world.conductor.advance(job["id"])
    versions = []
    for loss in (0.5, 0.5, 0.5, 250_000.0):
        world.neighbours.loss = loss
        done = await work_once(world, agents)
        await world.conductor.drive(done[0]["round_id"])
        versions.append((await world.get_job(job["id"]))["version_id"])
    found = await world.get_job(job["id"])
    assert (found["state"], found["reason"]) == ("paused", "diverged")
    assert "Lower the learning rate" in found["explanation"]
    assert "A single site can claim such a loss" in found["explanation"]
    assert versions[-1] == versions[-2]
    world.neighbours.loss = 0.4
    await world.admin.post(f"/v1/jobs/{job['id']}/resume", headers={"Idempotency-Key": "r" * 20})
    await world.conductor.advance(job["id"])
    done = await work_once(world, agents)
    assert done[0]["signed_manifest"]["manifest"]["model"]["version_id"] == versions[-1]
    await world.conductor.drive(done[0]["round_id"])
    assert (await world.get_job(job["id"]))["state"] == "succeeded"


async def test_a_sites_own_metrics_are_told_where_the_round_asks_for_them(world: World) -> None:
    """By the site that holds the lease, once or again; by no other site, and in no round that does not ask."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation, evaluation={"sites": True, "every": 2})
    await world.conductor.advance(job["id"])
    for _ in range(4):
        done = await work_once(world, agents)
        metrics = {"lease_token": done[0]["lease_token"], "metrics": {"auc": 0.8}}
        refused = await agents[0].http.put(f"/v1/tasks/{done[0]['task_id']}/metrics", json=metrics)
        assert refused.status_code in (404, 409), "it does not evaluate, or another site makes the first model"
        await world.conductor.drive(done[0]["round_id"])
    for agent, told in zip(
        agents[:2], ({"examples": 90.0, "auc": 0.8, "loss": 0.4}, {"auc": 0.9, "loss": 0.5}), strict=True
    ):
        lease = (await agent.poll()).json()
        path, body = f"/v1/tasks/{lease['task_id']}/metrics", {"lease_token": lease["lease_token"]}
        for metrics, code in (({"Auc": 1.0}, 422), ({"auc": "1"}, 422), ({"auc": 0.1}, 204), (told, 204)):
            assert (await agent.http.put(path, json={**body, "metrics": metrics})).status_code == code
        assert (await agents[2].http.put(path, json={**body, "metrics": told})).status_code == 404
        old = {"lease_token": "0" * 32, "metrics": told}
        assert (await agent.http.put(path, json=old)).status_code == 409
    done = await work_once(world, agents)
    await world.conductor.drive(done[0]["round_id"])
    result = (await world.get_round(done[0]["round_id"]))["result"]
    assert result["sites"] == {
        "site-0": {"examples": 90.0, "auc": 0.8, "loss": 0.4},
        "site-1": {"auc": 0.9, "loss": 0.5},
    }
    assert set(result["spread"]) == {"auc", "loss"}
    assert (result["spread"]["auc"]["worst_site"], result["spread"]["loss"]["worst_site"]) == ("site-0", "site-1")
    assert result["spread"]["auc"]["mean"] == pytest.approx(0.85)
    assert result["spread"]["auc"]["deviation"] == pytest.approx(0.05)


async def test_the_sweeper_alone_carries_a_job_to_its_end(world: World) -> None:
    """No hint is ever heard: sweeps of rounds and jobs do everything, a few seconds later."""
    federation = await world.federation()
    agents = await world.sites(federation, 3)
    job = await world.job(federation, rounds=1, evaluation={"every": 0})
    for _ in range(12):
        await world.watch_for(4, agents)
        await world.conductor.sweep_jobs()
        await world.conductor.sweep_rounds()
        await work_once(world, agents)
        if (await world.get_job(job["id"]))["state"] != "running":
            break
    assert (await world.get_job(job["id"]))["state"] == "succeeded"


async def test_doubled_and_late_hints_change_nothing(world: World) -> None:
    """Ten looks at once, and looks at a round that is over, leave one round of each kind."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation, rounds=1, evaluation={"every": 0})
    await asyncio.gather(*(world.conductor.advance(job["id"]) for _ in range(5)))
    for _ in range(3):
        done = await work_once(world, agents)
        await asyncio.gather(*(world.conductor.drive(done[0]["round_id"]) for _ in range(10)))
        await world.conductor.drive(done[0]["round_id"])
    rounds = (await world.admin.get(f"/v1/jobs/{job['id']}/rounds")).json()["items"]
    assert [item["kind"] for item in rounds] == ["statistics", "initialise", "train"]
    assert (await world.get_job(job["id"]))["state"] == "succeeded"


async def test_a_lost_site_does_not_hold_up_the_round(world: World) -> None:
    """Three of four answer; when the fourth was silent for a lease period, the round closes with three."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    done = await work_once(world, agents[:3])
    await world.watch_for(20, agents)
    assert await world.sweeper.sweep() == 0
    await world.watch_for(35, agents[:3])
    assert await world.sweeper.sweep() == 1
    round_id = done[0]["round_id"]
    await world.conductor.drive(round_id)
    await world.conductor.drive(round_id)
    found = await world.get_round(round_id)
    assert (found["phase"], found["got"]) == ("published", 3)
    assert [task["state"] for task in found["tasks"]].count("expired") == 1


async def test_no_site_is_lost_while_no_process_listens(world: World) -> None:
    """After the API was away for minutes, no lease is reclaimed until it listened for a whole lease period."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    await agents[0].lease()
    world.clock.advance(300)
    assert await world.sweeper.sweep() == 0
    await world.flush()
    assert await world.sweeper.sweep() == 0
    await world.watch_for(35, agents[1:])
    assert await world.sweeper.sweep() >= 1


async def fail_tasks(agents: list[SiteAgent], code: str, message: str = "") -> None:
    """These sites lease their task and report a fault."""
    for agent in agents:
        report = await agent.report(await agent.lease(), "failures", code=code, message=message, trace=["x"])
        assert report.json()["state"] == "rejected"


async def rounds_of(world: World, job: dict[str, Any]) -> list[dict[str, Any]]:
    """All rounds of a job, oldest first."""
    answer = await world.admin.get(f"/v1/jobs/{job['id']}/rounds", params={"limit": 100})
    return list(answer.json()["items"])


async def test_a_job_pauses_after_a_bad_quarter_of_an_hour_and_goes_on_when_resumed(world: World) -> None:
    """The aggregator is away: attempts rest longer each time, the job pauses, and resuming finishes it."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    world.neighbours.away = True
    await world.conductor.advance(job["id"])
    for _ in range(MAX_ATTEMPTS_PER_STEP):
        await world.watch_for(95, agents)
        await world.conductor.sweep_rounds()
        await world.watch_for(125, agents)
        await world.conductor.sweep_jobs()
    found = await world.get_job(job["id"])
    assert (found["state"], found["reason"]) == ("paused", "deadline")
    assert found["explanation"].startswith("The round's deadline passed without a result. Look for what is away")
    failed = await rounds_of(world, job)
    assert [(item["attempt"], item["phase"]) for item in failed] == [
        (attempt, "failed") for attempt in range(1, MAX_ATTEMPTS_PER_STEP + 1)
    ]
    world.neighbours.away = False
    for item in failed:
        world.neighbours.rounds[item["id"]] = {"state": "collecting"}
    await world.conductor.sweep_reports()
    assert {world.neighbours.rounds[item["id"]]["state"] for item in failed} == {"cancelled"}
    resumed = (await world.admin.post(f"/v1/jobs/{job['id']}/resume")).json()
    assert (resumed["state"], resumed["reason"], resumed["last_failure"]) == ("running", None, None)
    await world.conductor.advance(job["id"])
    while done := await work_once(world, agents):
        await world.conductor.drive(done[0]["round_id"])
    assert (await world.get_job(job["id"]))["state"] == "succeeded"


async def test_attempts_rest_before_they_are_made_again(world: World) -> None:
    """The second attempt comes at once, the third only after its rest, whatever asks for it in between."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    for _ in range(2):
        round_id = (await world.get_job(job["id"]))["round_id"]
        world.neighbours.rounds[round_id].update(state="failed", reason="quorum", step="advertise")
        await world.conductor.drive(round_id)
    await world.conductor.advance(job["id"])
    await world.conductor.sweep_jobs()
    found = await world.get_job(job["id"])
    assert (found["round_id"], found["progress"]["failures"], found["state"]) == (None, 2, "running")
    assert found["last_failure"].startswith("Fewer sites than the minimum cohort came to the step advertise")
    await world.watch_for(5, agents)
    await world.conductor.sweep_jobs()
    assert (await world.get_job(job["id"]))["round_id"] is not None


async def test_a_round_without_quorum_is_tried_again(world: World) -> None:
    """Two sites cannot go on, the quorum of three cannot be met: attempt 2 of the same step, and the causes shown."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    done = await work_once(world, agents[:2])
    await fail_tasks(agents[2:], "upload-refused", "not now")
    await world.conductor.drive(done[0]["round_id"])
    await world.conductor.drive(done[0]["round_id"])
    rounds = await rounds_of(world, job)
    assert [(item["number"], item["attempt"], item["reason"]) for item in rounds] == [(0, 1, "quorum"), (0, 2, None)]
    found = await world.get_job(job["id"])
    assert found["causes"] == [{"code": "upload-refused", "sentence": "not now", "sites": 2}]
    tasks = (await world.get_round(rounds[0]["id"]))["tasks"]
    refused = [task for task in tasks if task["state"] == "rejected"]
    assert {(task["code"], task["message"], tuple(task["trace"])) for task in refused} == {
        ("upload-refused", "not now", ("x",))
    }


async def test_a_fault_that_repeats_is_not_tried_again(world: World) -> None:
    """Two of four sites refuse by policy where three are needed: the job fails after one attempt and says why."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    done = await work_once(world, agents[:2])
    await fail_tasks(agents[2:3], "policy-engine", "the policy allows pairwise only")
    await fail_tasks(agents[3:], "policy-engine")
    await world.conductor.drive(done[0]["round_id"])
    await world.conductor.drive(done[0]["round_id"])
    found = await world.get_job(job["id"])
    assert (found["state"], found["reason"], len(await rounds_of(world, job))) == ("failed", "quorum", 1)
    assert found["causes"] == [
        {"code": "policy-engine", "sentence": "no detail was given", "sites": 1},
        {"code": "policy-engine", "sentence": "the policy allows pairwise only", "sites": 1},
    ]
    stream = (await world.admin.get(f"/v1/jobs/{job['id']}/events")).text
    told = json.loads(stream.rpartition("data: ")[2].strip())
    assert (told["type"], told["data"]["causes"]) == ("job.failed", found["causes"])


async def test_one_site_that_refuses_pauses_a_job_that_needs_it_and_ends_it_not(world: World) -> None:
    """All four sites are needed and one refuses: nothing is tried again, and once its owner agrees the job goes on."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation, cohort={"min": 4})
    await world.conductor.advance(job["id"])
    done = await work_once(world, agents[:3])
    await fail_tasks(agents[3:], "sample-count-changed")  # it was enrolled again, and has lost its state
    await world.conductor.drive(done[0]["round_id"])
    await world.conductor.drive(done[0]["round_id"])
    found = await world.get_job(job["id"])
    assert (found["state"], found["reason"], len(await rounds_of(world, job))) == ("paused", "quorum", 1)
    assert [cause["code"] for cause in found["causes"]] == ["sample-count-changed"]
    assert "Fewer sites than the minimum cohort" in found["explanation"]
    assert "cancel it and submit it again" in found["explanation"]
    await world.admin.post(f"/v1/jobs/{job['id']}/resume")
    await world.conductor.advance(job["id"])
    assert len(await work_once(world, agents)) == 4


@pytest.mark.parametrize("code", ["budget-exceeded", *also("consent-denied")])
async def test_owners_who_all_refuse_for_now_pause_the_job_at_once(world: World, code: str) -> None:
    """After one attempt: the remedy is to ask them, and what they may then allow is this job."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    await fail_tasks(agents, code)
    (round_,) = await rounds_of(world, job)
    await world.conductor.drive(round_["id"])
    await world.conductor.drive(round_["id"])
    found = await world.get_job(job["id"])
    assert (found["state"], len(await rounds_of(world, job))) == ("paused", 1)
    assert [(cause["code"], cause["sites"]) for cause in found["causes"]] == [(code, len(agents))]
    assert "owners" in found["explanation"]
    await world.admin.post(f"/v1/jobs/{job['id']}/resume")
    await world.conductor.advance(job["id"])
    assert len(await work_once(world, agents)) == len(agents)


async def test_opinions_on_the_first_model_are_those_on_its_recipe(world: World) -> None:
    """A site's policy refusal does not make one site's word about the recipe the second of two."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    (round_id,) = {lease["round_id"] for lease in await work_once(world, agents)}
    await world.conductor.drive(round_id)
    for code in ("policy-recipe", "recipe-error"):
        round_id = (await world.get_job(job["id"]))["round_id"]
        (chosen,) = (await world.get_round(round_id))["cohort"]
        await fail_tasks([agent for agent in agents if agent.id == chosen], code)
        await world.conductor.drive(round_id)
        await world.conductor.drive(round_id)
    assert (await world.get_job(job["id"]))["state"] == "running"


async def test_a_bad_parameter_is_told_by_two_sites_and_not_by_one(world: World) -> None:
    """The first model fails at one site: another is asked, since one site may lie; when it agrees, the job fails."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    (round_id,) = {lease["round_id"] for lease in await work_once(world, agents)}
    await world.conductor.drive(round_id)
    asked = []
    for attempt in (1, 2):
        (chosen,) = (await world.get_round((await world.get_job(job["id"]))["round_id"]))["cohort"]
        asked.append(chosen)
        await fail_tasks([agent for agent in agents if agent.id == chosen], "recipe-error", "tabular has no x")
        round_id = (await world.get_job(job["id"]))["round_id"]
        await world.conductor.drive(round_id)
        await world.conductor.drive(round_id)
        assert (await world.get_job(job["id"]))["state"] == ("running" if attempt == 1 else "failed")
    assert len(set(asked)) == 2
    found = await world.get_job(job["id"])
    assert found["causes"] == [{"code": "recipe-error", "sentence": "tabular has no x", "sites": 1}]


async def test_pause_lets_the_round_finish_and_cancel_aborts_it(world: World) -> None:
    """A paused job plans nothing; a cancelled one tells agents to stop, and the aggregator to forget."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    path = f"/v1/jobs/{job['id']}"
    assert (await world.admin.post(f"{path}/pause")).json()["state"] == "paused"
    done = await work_once(world, agents)
    await world.conductor.drive(done[0]["round_id"])
    assert await work_once(world, agents) == []
    assert (await world.admin.post(f"{path}/resume")).json()["state"] == "running"
    await world.conductor.advance(job["id"])
    leases = [answer.json() for agent in agents if (answer := await agent.poll()).status_code == 200]
    assert len(leases) == 1
    cancelled = (await world.admin.post(f"{path}/cancel")).json()
    assert (cancelled["state"], cancelled["round_id"]) == ("cancelled", None)
    assert (await world.admin.post(f"{path}/cancel")).json()["state"] == "cancelled"
    holder = next(agent for agent in agents if agent.id in str(leases[0]["signed_manifest"]["manifest"]["cohort"]))
    beat = await holder.report(leases[0], "heartbeats", progress=0.5, phase="train")
    assert beat.json() | {"lease_s": 0} == {"state": "abort", "reason": "round-cancelled", "lease_s": 0}
    await world.conductor.sweep_reports()
    assert world.neighbours.rounds[leases[0]["round_id"]]["state"] == "cancelled"
    resumed = await world.admin.post(f"{path}/resume")
    assert resumed.status_code == 409
    assert resumed.json()["type"].endswith(":job-over")


async def test_a_job_waits_for_sites_and_pauses_in_the_end(world: World) -> None:
    """All sites are silent: the job waits as long as a round may last, then pauses; resumed, it goes on."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.watch_for(40)
    await world.conductor.advance(job["id"])
    waiting = await world.get_job(job["id"])
    assert waiting["waiting_since"] is not None
    assert [(each["site_id"], each["reason"]) for each in waiting["absent"]] == [
        (agent.id, "its agent is offline") for agent in agents
    ]
    world.clock.advance(61)
    await world.conductor.sweep_jobs()
    found = await world.get_job(job["id"])
    assert (found["state"], found["reason"]) == ("paused", "too-few-sites")
    await world.watch_for(10, agents)
    await world.admin.post(f"/v1/jobs/{job['id']}/resume")
    await world.conductor.advance(job["id"])
    assert (await world.get_job(job["id"]))["round_id"] is not None


async def test_a_waiting_job_tells_what_keeps_each_site_that_is_online(world: World) -> None:
    """They are online, and none can take work: what each lacks is told, not that it is offline."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    told = [
        profile(faults=[{"code": "policy-unreadable", "dataset": None}]),
        profile(datasets=[], faults=[{"code": "dataset-unreadable", "dataset": "heart"}]),
        profile(datasets=[{**profile()["datasets"][0], "name": "hearts"}]),
        profile(recipes=[]),
    ]
    for agent, what in zip(agents, told, strict=True):
        assert (await agent.http.put("/v1/sites/self/profile", json=what)).status_code == 200
    await world.conductor.advance(job["id"])
    waiting = await world.get_job(job["id"])
    reasons = [each["reason"] for each in waiting["absent"]]
    assert reasons[:2] == [
        "it cannot take work: its policy cannot be read",
        "its data set 'heart' cannot be read",
    ]
    assert reasons[2].startswith("its agent reports no such data set; did you mean 'hearts'?")
    assert reasons[3].startswith("it lacks the recipe")
    await world.admin.post(f"/v1/jobs/{job['id']}/cancel")
    assert (await world.get_job(job["id"]))["absent"] == []


async def test_an_aggregator_that_forgot_the_round_gets_a_new_attempt(world: World) -> None:
    """After a restore over there, its key for the round is gone: the same step is tried as a new round."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    lease = await agents[0].lease()
    world.neighbours.rounds.clear()
    await world.conductor.drive(lease["round_id"])
    rounds = (await world.admin.get(f"/v1/jobs/{job['id']}/rounds")).json()["items"]
    assert [(item["attempt"], item["reason"]) for item in rounds] == [(1, "aggregator:round-unknown"), (2, None)]
    assert list(world.neighbours.rounds) == [rounds[1]["id"]]


@pytest.mark.parametrize("closing", [False, True])
async def test_a_site_whose_stored_update_rotted_is_asked_again(world: World, closing: bool) -> None:
    """Once: its task is open, the round waits for it, and the same report changes nothing more.

    Also where no other site was waited for, so that the round was closing.
    """
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    done = await work_once(world, agents[:3])
    round_id = done[0]["round_id"]
    if closing:
        await world.conductor._rounds.begin_closing(round_id)
    tasks = (await world.get_round(round_id))["tasks"]
    (unlucky, *_) = [task["site_id"] for task in tasks if task["state"] == "done"]
    found = world.neighbours.rounds[round_id]
    found["rejections"] = [{"site_id": unlucky, "code": "body-lost", "message": "damaged"}]
    for _ in range(2):
        await world.conductor.drive(round_id)
    told = await world.get_round(round_id)
    states = {task["site_id"]: (task["state"], task["code"]) for task in told["tasks"]}
    assert states.pop(unlucky) == ("open", "body-lost")
    assert sorted(state for state, _ in states.values()) == ["done", "done", "open"]
    assert (told["phase"], told["got"], told["closing"]) == ("collecting", 2, False)


async def test_a_broken_claim_stops_the_job_whoever_of_the_federation_found_it(world: World) -> None:
    """The registry has to know of it; a stranger, another version's audit or a person's word stops nothing."""
    federation, other = await world.federation(), await world.federation("other")
    await world.sites(federation)
    job = await world.job(federation)
    path = f"/v1/jobs/{job['id']}"
    kept = {"federation_id": federation, "model_id": "mdl_x", "content_digest": "ab" * 32, "claim_broken": True}
    world.neighbours.versions |= {
        "ver_broken": {"id": "ver_broken", "lineage": {"job_id": job["id"]}, **kept},
        "ver_fine": {"id": "ver_fine", "lineage": {"job_id": job["id"]}, **kept, "claim_broken": False},
        "ver_other": {"id": "ver_other", "lineage": {"job_id": "job_other"}, **kept},
    }
    auditor, owner = (
        await world.person("auditor", ("auditor", federation)),
        await world.person("o", ("owner", federation)),
    )
    stranger = await world.person("stranger", ("scientist", other))
    for version_id, status in (("ver_fine", 409), ("ver_other", 409), ("ver_none", 404), ("rnd_1", 422)):
        answer = await auditor.post(f"{path}/broken-claim", json={"version_id": version_id})
        assert answer.status_code == status, version_id
    body = {"version_id": "ver_broken"}
    assert (await stranger.post(f"{path}/broken-claim", json=body)).status_code == 404
    assert (await auditor.get(path)).json()["state"] == "running"
    assert (await world.admin.post(f"{path}/pause")).json()["reason"] is None
    for person in (owner, auditor):  # idempotent; a person who paused the job before learns of it
        stopped = (await person.post(f"{path}/broken-claim", json=body)).json()
        assert (stopped["state"], stopped["reason"]) == ("paused", "claim-broken")
    assert "above what the job claims" in stopped["explanation"]
    await world.conductor.advance(job["id"])
    assert (await auditor.get(path)).json()["round_id"] is None
