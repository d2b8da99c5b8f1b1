"""Jobs whose rounds collect what sites trained before: orders, changes that are ready, and what ends them."""

from typing import Any

import pytest

from tests.services.coordinator.test_rounds import DIGEST, work_once
from tests.services.coordinator.world import SiteAgent, World, document

BUFFER = {"name": "fedbuff", "params": {"buffer": 3, "max_staleness": 2}, "weighting": "equal"}


async def begun(world: World, **changes: Any) -> tuple[dict[str, Any], list[SiteAgent]]:
    """A job that has its first model, and whose four sites were given the first order."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(
        federation, **({"rounds": 3, "engine": "sealed", "strategy": BUFFER, "evaluation": {"every": 0}} | changes)
    )
    await world.conductor.advance(job["id"])
    for _ in range(2):
        done = await work_once(world, agents)
        await world.conductor.drive(done[0]["round_id"])
    return job, agents


async def train(world: World, agents: list[SiteAgent]) -> list[dict[str, Any]]:
    """Lease and say `ready`, and have the coordinator hear of it."""
    leases = []
    for agent in agents:
        lease = await agent.lease()
        assert lease["kind"] == "prepare"
        assert lease["engine_public"] == {}, "no aggregator has to do with it"
        answer = await agent.report(lease, "completions", digest=DIGEST)
        assert answer.json()["state"] == "trained"
        leases.append(lease)
    await world.conductor.drive(leases[-1]["round_id"])
    return leases


async def collect(world: World, agents: list[SiteAgent]) -> dict[str, Any]:
    """Have these sites give what they have; the round's manifest."""
    done = []
    for agent in agents:
        lease = await agent.lease()
        assert lease["kind"] == "train"
        world.neighbours.upload(lease["round_id"], agent.id)
        assert (await agent.report(lease, "completions", digest=DIGEST)).json()["state"] == "done"
        done.append(lease)
    await world.conductor.drive(done[0]["round_id"])
    return dict(done[0]["signed_manifest"]["manifest"])


def ages(manifest: dict[str, Any]) -> dict[str, int]:
    return {each["site_id"]: each["staleness"] for each in manifest["buffered"]}


async def test_a_round_collects_from_those_who_are_ready_and_waits_for_no_other(world: World) -> None:
    """A slow site trains on from the first version while two rounds go by, and gives in the third at its age."""
    job, (*fast, slow) = await begun(world)
    held = await slow.lease()
    first = await train(world, fast)
    order = first[0]["signed_manifest"]["manifest"]
    assert (order["kind"], len(order["cohort"]), order["min_cohort"]) == ("prepare", 4, 3)
    assert ages(await collect(world, fast)) == {agent.id: 0 for agent in fast}
    await train(world, fast)
    assert (await slow.lease())["task_id"] == held["task_id"], "it goes on"
    assert slow.id not in ages(await collect(world, fast))
    assert (await slow.report(held, "completions", digest=DIGEST)).json()["state"] == "trained"
    await train(world, fast[:2])
    manifest = await collect(world, [fast[0], fast[1], slow])
    assert ages(manifest) == {fast[0].id: 0, fast[1].id: 0, slow.id: 2}
    base = {each["site_id"]: each["version_id"] for each in manifest["buffered"]}
    assert base[slow.id] == held["signed_manifest"]["manifest"]["model"]["version_id"]
    assert base[fast[0].id] == manifest["model"]["version_id"]
    found = await world.get_job(job["id"])
    assert (found["state"], found["progress"]["trained"]) == ("succeeded", 3)
    told = (await world.admin.get(f"/v1/jobs/{job['id']}/events")).text
    assert "event: order.opened" in told
    assert "event: job.waiting" not in told, "that sites train is no lack of sites"
    rounds = (await world.admin.get(f"/v1/jobs/{job['id']}/rounds")).json()["items"]
    assert max(rounds[-1]["result"]["staleness"].values()) == 2
    world.clock.advance(4)
    await world.conductor.sweep_rounds()
    rounds = (await world.admin.get(f"/v1/jobs/{job['id']}/rounds")).json()["items"]
    assert {one["phase"] for one in rounds if one["kind"] == "prepare"} == {"cancelled"}, "orders end with their job"


async def test_a_change_that_is_too_old_is_collected_by_no_round(world: World) -> None:
    _, (*fast, slow) = await begun(world, rounds=9)
    held = await slow.lease()
    for _ in range(3):
        await train(world, fast)
        await collect(world, fast)
    world.clock.advance(4)
    await world.conductor.sweep_rounds()
    beat = await slow.report(held, "heartbeats", progress=0.1)
    assert beat.json() == {"state": "abort", "reason": "round-cancelled", "lease_s": 30.0}
    assert (await slow.report(held, "completions", digest=DIGEST)).status_code in (200, 409)
    await train(world, fast[:2])
    newest = await slow.lease()
    assert newest["kind"] == "prepare"
    assert newest["round_id"] != held["round_id"]


async def test_a_change_is_given_once_and_dropped_where_its_site_has_it_no_more(world: World) -> None:
    """A round that fails before its sum is opened leaves the changes of those that did not fail."""
    job, agents = await begun(world, rounds=1)
    await train(world, agents[:3])
    leases = [await agent.lease() for agent in agents[:3]]
    assert {lease["kind"] for lease in leases} == {"train"}
    failed = await agents[0].report(leases[0], "failures", code="change-gone", message="it is damaged")
    assert failed.json()["state"] == "rejected"
    world.neighbours.rounds[leases[0]["round_id"]] |= {"state": "failed", "reason": "quorum"}
    await world.conductor.drive(leases[0]["round_id"])
    world.clock.advance(4)
    await world.conductor.sweep_jobs()
    await train(world, [agents[0]])
    assert set(ages(await collect(world, agents[:3]))) == {agent.id for agent in agents[:3]}
    found = await world.get_job(job["id"])
    assert found["state"] == "succeeded"
    parts = {part["site_id"]: part for part in await world.participation(job["id"])}
    assert {part["trained"] for part in parts.values()} == {0}, "nothing waits any more"


@pytest.mark.parametrize("code", ["recipe-error", "policy-kind"])
async def test_sites_that_cannot_train_end_the_job_as_in_any_round(world: World, code: str) -> None:
    job, agents = await begun(world)
    for agent in agents[:3]:
        lease = await agent.lease()
        await agent.report(lease, "failures", code=code, message="training diverged")
        await world.conductor.drive(lease["round_id"])
    found = await world.get_job(job["id"])
    assert found["state"] == "failed"
    assert found["causes"][0]["sites"] >= 2


async def test_a_job_pauses_where_its_buffer_never_fills(world: World) -> None:
    job, agents = await begun(world)
    await train(world, agents[:2])
    found = job
    for _ in range(60):
        world.clock.advance(59)
        await world.watch_for(4, agents)
        await world.conductor.sweep_jobs()
        found = await world.get_job(job["id"])
        if found["state"] != "running":
            break
    assert (found["state"], found["reason"]) == ("paused", "buffer")
    assert found["explanation"].startswith("Too few sites had a change ready within the deadline. Look for")


async def test_a_cancelled_job_takes_its_orders_back(world: World) -> None:
    job, agents = await begun(world)
    held = await agents[0].lease()
    answer = await world.admin.post(f"/v1/jobs/{job['id']}/cancel", headers={"Idempotency-Key": "x" * 20})
    assert answer.status_code == 200, answer.text
    world.clock.advance(4)
    await world.conductor.sweep_rounds()
    assert (await agents[0].report(held, "heartbeats", progress=0.1)).json()["state"] == "abort"
    assert (await agents[1].poll()).status_code == 204


async def test_what_a_buffer_cannot_have_is_refused_at_submission(world: World) -> None:
    federation = await world.federation()
    await world.sites(federation)

    async def faults(**changes: Any) -> dict[str, str]:
        asked = document(federation, **({"engine": "sealed", "strategy": BUFFER} | changes))
        answer = await world.admin.post("/v1/jobs", json=asked)
        assert answer.status_code == 422, answer.text
        return {fault["path"]: fault["message"] for fault in answer.json()["errors"]}

    def buffer(**params: Any) -> dict[str, Any]:
        return BUFFER | {"params": params}

    assert "equal" in (await faults(strategy={"name": "fedbuff"}))["/strategy/weighting"]
    assert "never fill" in (await faults(strategy=buffer(buffer=5)))["/strategy/params/buffer"]
    assert "at least 3" in (await faults(strategy=buffer(buffer=2)))["/strategy/params/buffer"]
    assert "whole" in (await faults(strategy=buffer(buffer=3.5)))["/strategy/params/buffer"]
    assert "less than cohort.min" in (await faults(cohort={"min": 4}))["/strategy/params/buffer"]
    assert "/cohort/enough" in await faults(cohort={"enough": 3})
    assert "/cohort/fraction" in await faults(cohort={"fraction": 0.5})
