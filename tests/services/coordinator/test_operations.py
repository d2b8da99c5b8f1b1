"""The dead letters: listed, given another try, put away, by whom it may be; and what operators read from SQL."""

from typing import Any

import httpx
from prometheus_client import REGISTRY

from tests.services.coordinator.world import TIMING, SiteAgent, World
from undersong.services.coordinator.domain.tasks import MAX_ATTEMPTS
from undersong.services.coordinator.gauges import Gauges
from undersong.shared.web.access import Grant, Principal, Role

DIGEST = "cd" * 32
ADMIN = Principal("usr_1", "ada", (Grant(Role.ADMIN, None),))


async def given_up(world: World, agent: SiteAgent) -> dict[str, Any]:
    """The site fails until its task is given up; the last lease."""
    for _ in range(MAX_ATTEMPTS):
        lease = await agent.lease()
        failed = await agent.report(lease, "failures", code="child-died", message="killed", trace=[])
        assert failed.status_code == 200, failed.text
    assert failed.json()["state"] == "dead"
    return lease


async def listed(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    answer = await client.get("/v1/dead-tasks")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


async def events(world: World, job_id: str) -> list[tuple[str, str]]:
    found = await world.use_cases.jobs.more_events(job_id, 0, 1000)
    return [(event.type, event.actor) for event in found]


async def test_a_dead_task_is_requeued_or_discarded_by_name(world: World) -> None:
    federation, other = await world.federation(), await world.federation("other")
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    lease = await given_up(world, agents[0])
    await given_up(world, agents[1])
    ida = await world.person("ida", ("scientist", federation))
    eve = await world.person("eve", ("scientist", other))
    bob = await world.person("bob", ("auditor", federation))

    assert await listed(eve) == []
    assert {(item["site_id"], item["code"], item["requeueable"]) for item in await listed(bob)} == {
        (agents[0].id, "child-died", True),
        (agents[1].id, "child-died", True),
    }
    task = f"/v1/dead-tasks/{lease['task_id']}"
    assert (await bob.post(f"{task}/requeue")).status_code == 403
    assert (await eve.post(f"{task}/requeue")).status_code == 404

    again = [await ida.post(f"{task}/requeue", headers={"idempotency-key": "once-and-no-more"}) for _ in range(2)]
    assert [answer.status_code for answer in again] == [200, 200]
    assert again[0].json() == again[1].json()
    assert again[0].json()["state"] == "open"
    assert (await ida.post(f"{task}/requeue")).status_code == 409  # it is not dead any more
    fresh = await agents[0].lease()
    assert (fresh["task_id"], fresh["attempt"]) == (lease["task_id"], 1)
    assert (await agents[0].report(fresh, "completions", digest=DIGEST)).status_code == 200

    (left,) = await listed(ida)
    answer = await ida.post(f"/v1/dead-tasks/{left['id']}/discard")
    assert (answer.status_code, answer.json()["state"], answer.json()["code"]) == (200, "rejected", "child-died")
    assert await listed(ida) == []
    assert [pair for pair in await events(world, job["id"]) if pair[1] == "ida"] == [
        ("task.requeued", "ida"),
        ("task.discarded", "ida"),
    ]
    round_ = await world.get_round(lease["round_id"])
    assert (round_["got"], round_["outstanding"]) == (1, 2)


async def test_what_operators_read(world: World) -> None:
    """The same on both databases; a task of a round that is over can only be put away."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    lease = await given_up(world, agents[0])
    operations, gauges = world.use_cases.operations, Gauges(world.database, TIMING)
    depth = await operations.depth(ADMIN)
    assert (depth.open_rounds, depth.open_tasks, depth.overdue_s) == (1, 3, 0.0)
    assert (depth.sites_recent, depth.sites_silent) == (4, 0)
    assert depth.database_bytes > 10_000
    await gauges.rounds()
    await gauges.sites()
    assert REGISTRY.get_sample_value("fl_dead_tasks") == 1
    assert REGISTRY.get_sample_value("fl_sites_online", {"version": "0.1.0"}) == 4
    assert REGISTRY.get_sample_value("fl_round_overdue_seconds") == 0

    await world.watch_for(200, agents[:2])
    await gauges.rounds()
    await gauges.sites()
    assert REGISTRY.get_sample_value("fl_round_overdue_seconds") > 60
    assert REGISTRY.get_sample_value("fl_sites", {"state": "silent"}) == 2
    assert (await operations.depth(ADMIN)).sites_silent == 2

    await world.conductor.sweep_rounds()
    assert (await world.get_round(lease["round_id"]))["phase"] == "failed"
    refused = await world.admin.post(f"/v1/dead-tasks/{lease['task_id']}/requeue")
    assert (refused.status_code, refused.json()["type"]) == (410, "urn:undersong:problem:round-not-collecting")
    assert (await world.admin.post(f"/v1/dead-tasks/{lease['task_id']}/discard")).status_code == 200
    record = await operations.record(ADMIN)
    assert (record.published, record.failed) == (0, 1)
    assert 0 < record.late_share <= 1
