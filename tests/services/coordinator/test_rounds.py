"""Whole jobs through the real application: from submission to the last evaluation, hints or no hints."""

import asyncio
from typing import Any

from coordinator_world import SiteAgent, World

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
    found = await world.get_job(job["id"])
    assert (found["state"], found["reason"]) == ("succeeded", "completed")
    assert found["features"] == ["age", "chol"]
    assert found["progress"]["scores"][0]["accuracy"] == 17 / 20
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


async def test_nobody_is_lost_while_nobody_could_hear(world: World) -> None:
    """After the API was away for minutes, no lease is taken back until it listened for a whole lease period."""
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


async def test_a_round_ends_at_its_deadline_even_without_the_aggregator(world: World) -> None:
    """The aggregator is away from beginning to end: failed, tried again, and in the end the job fails and says why."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    world.neighbours.away = True
    await world.conductor.advance(job["id"])
    for _ in range(3):
        await world.watch_for(95, agents)
        await world.conductor.sweep_rounds()
        await world.conductor.sweep_jobs()
    found = await world.get_job(job["id"])
    assert (found["state"], found["reason"]) == ("failed", "deadline")
    rounds = (await world.admin.get(f"/v1/jobs/{job['id']}/rounds")).json()["items"]
    assert [(item["attempt"], item["phase"]) for item in rounds] == [(1, "failed"), (2, "failed"), (3, "failed")]
    world.neighbours.away = False
    for item in rounds:
        world.neighbours.rounds[item["id"]] = {"state": "collecting"}
    await world.conductor.sweep_reports()
    assert {world.neighbours.rounds[item["id"]]["state"] for item in rounds} == {"cancelled"}


async def test_a_round_without_quorum_is_tried_again(world: World) -> None:
    """Two sites refuse, the quorum of three cannot be met: attempt 2 of the same step."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    done = await work_once(world, agents[:2])
    for agent in agents[2:]:
        lease = await agent.lease()
        report = await agent.report(lease, "failures", code="policy-refused", message="not on Sundays", trace=["x"])
        assert report.json()["state"] == "rejected"
    await world.conductor.drive(done[0]["round_id"])
    await world.conductor.drive(done[0]["round_id"])
    rounds = (await world.admin.get(f"/v1/jobs/{job['id']}/rounds")).json()["items"]
    assert [(item["number"], item["attempt"], item["reason"]) for item in rounds] == [(0, 1, "quorum"), (0, 2, None)]
    tasks = (await world.get_round(rounds[0]["id"]))["tasks"]
    refused = [task for task in tasks if task["state"] == "rejected"]
    assert {(task["code"], task["message"], tuple(task["trace"])) for task in refused} == {
        ("policy-refused", "not on Sundays", ("x",))
    }


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


async def test_a_job_waits_for_sites_and_gives_up_in_the_end(world: World) -> None:
    """All sites are silent: the job waits as long as a round may last, then fails."""
    federation = await world.federation()
    await world.sites(federation)
    job = await world.job(federation)
    await world.watch_for(40)
    await world.conductor.advance(job["id"])
    assert (await world.get_job(job["id"]))["waiting_since"] is not None
    world.clock.advance(61)
    await world.conductor.sweep_jobs()
    found = await world.get_job(job["id"])
    assert (found["state"], found["reason"]) == ("failed", "too-few-sites")


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
