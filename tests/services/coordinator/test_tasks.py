"""Leases, heartbeats and reports: one task, one holder, whatever races."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from tests.services.coordinator.world import SiteAgent, World, profile
from undersong.shared.identity.authority import Subject
from undersong.shared.identity.requests import SigningAuth

DIGEST = "cd" * 32


async def started(world: World, count: int = 4) -> tuple[str, list[SiteAgent], dict[str, Any]]:
    federation = await world.federation()
    agents = await world.sites(federation, count)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    return federation, agents, job


def slug(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).rpartition(":")[2]


async def test_a_site_that_never_reported_its_profile_stops_no_other_site(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = await world.federation()
    agents = await world.sites(federation, 4)
    body = {"name": "silent", "owner": "silent hospital"}
    site_id = (await world.admin.post(f"/v1/federations/{federation}/sites", json=body)).json()["id"]
    signing = SigningAuth(world.identity(Subject("site", site_id, federation)), "coordinator")
    await SiteAgent(site_id, world.client(signing)).poll()
    await world.flush()
    job = await world.job(federation)
    monkeypatch.setattr(
        "undersong.services.coordinator.repository.sites._profiles", {}
    )  # as in a worker that has just started
    await world.conductor.advance(job["id"])
    assert [(await agent.poll()).status_code for agent in agents].count(200) == 4


@pytest.mark.both_databases
async def test_fifty_polls_of_one_site_get_one_task(world: World) -> None:
    """All answers name the same task and the same lease; in SQL it was leased once."""
    _, agents, _ = await started(world)
    answers = await asyncio.gather(*(agents[0].poll() for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({(a.json()["task_id"], a.json()["lease_token"]) for a in answers}) == 1
    assert {answer.json()["attempt"] for answer in answers} == {1}


async def test_a_lease_says_all_that_an_agent_needs(world: World) -> None:
    """Times as durations, the signed manifest, the engine's public material; and nothing for a site not asked."""
    _, agents, job = await started(world)
    lease = await agents[0].lease()
    assert (lease["lease_s"], lease["heartbeat_s"], lease["attempt"]) == (30.0, 10.0, 1)
    manifest = lease["signed_manifest"]["manifest"]
    assert (manifest["job_id"], manifest["round_id"]) == (job["id"], lease["round_id"])
    assert agents[0].id in manifest["cohort"]
    assert lease["engine_public"] == {"key": "00" * 32}
    stored = await agents[1].http.get(f"/v1/rounds/{lease['round_id']}/manifest")
    assert stored.json() == lease["signed_manifest"]
    other = await world.federation("other")
    stranger = await world.site(other, "stranger")
    assert (await stranger.poll()).status_code == 204
    assert (await stranger.http.get(f"/v1/rounds/{lease['round_id']}/manifest")).status_code == 404
    assert (await stranger.report(lease, "completions", digest=DIGEST)).status_code == 404


async def test_a_long_poll_is_woken_by_a_new_round(small_world: World) -> None:
    """An agent that waits gets its task as soon as the round opens, before its waiting time is over."""
    world = small_world
    federation = await world.federation()
    agents = await world.sites(federation)
    waiting = [asyncio.create_task(agent.poll(wait_s=30)) for agent in agents]
    await asyncio.sleep(0.3)
    job = await world.job(federation)
    began = time.monotonic()
    await world.conductor.advance(job["id"])
    answers = await asyncio.gather(*waiting)
    assert {answer.status_code for answer in answers} == {200}
    assert time.monotonic() - began < 25  # the rest is for a loaded machine


async def test_the_book_of_attendance_wakes_waiters_without_any_hint(small_world: World) -> None:
    """With the notifier dumb, one look for all waiting sites finds the open task."""
    world = small_world
    _, agents, _ = await started(world)
    world.notifier.notify_local = lambda key: notified.append(key)  # type: ignore[method-assign]
    notified: list[str] = []
    await asyncio.sleep(0.3)
    notified.clear()
    with world.use_cases.attendance.present(agents[0].id):  # type: ignore[arg-type]
        await world.use_cases.attendance.look()
    assert agents[0].id in notified


async def test_an_empty_poll_says_when_to_come_again(small_world: World) -> None:
    """204 with Next-Poll-S: at once after a long poll, later after a short one."""
    world = small_world
    federation = await world.federation()
    agent = await world.site(federation, "alone")
    short = await agent.poll()
    assert (short.status_code, short.headers["next-poll-s"]) == (204, "5")
    long = await agent.poll(wait_s=1)
    assert (long.status_code, long.headers["next-poll-s"]) == (204, "0")
    assert (await agent.poll(wait_s=31)).status_code == 422


async def test_an_old_lease_is_refused(world: World) -> None:
    """The lease ran out, the task was leased anew: the first holder's heartbeat and reports get stale-lease."""
    _, agents, _ = await started(world)
    first = await agents[0].lease()
    await world.watch_for(35, agents)
    assert await world.sweeper.sweep() >= 1
    second = await agents[0].lease()
    assert second["task_id"] == first["task_id"]
    assert (second["attempt"], second["lease_token"] != first["lease_token"]) == (2, True)
    for what, body in (
        ("heartbeats", {"progress": 0.1}),
        ("completions", {"digest": DIGEST}),
        ("failures", {"code": "no-memory", "message": "x"}),
    ):
        answer = await agents[0].report(first, what, **body)
        assert (answer.status_code, slug(answer)) == (409, "stale-lease")
    assert (await agents[0].report(second, "heartbeats", progress=0.5)).json()["state"] == "continue"


async def test_heartbeats_keep_a_lease_alive(world: World) -> None:
    """Two minutes of work with a heartbeat every 20 seconds, and a restarted agent still finds its own lease."""
    _, agents, _ = await started(world)
    lease = await agents[0].lease()
    for _ in range(6):
        await world.watch_for(20, agents)
        assert await world.sweeper.sweep() == 0
        answer = await agents[0].report(lease, "heartbeats", progress=0.5, phase="train")
        assert answer.json() == {"state": "continue", "reason": None, "lease_s": 30.0}
    again = await agents[0].lease()
    assert again["lease_token"] == lease["lease_token"]
    task = (await world.get_round(lease["round_id"]))["tasks"]
    assert [item["phase"] for item in task if item["site_id"] == agents[0].id] == ["train"]


async def test_a_task_is_dead_after_five_attempts(world: World) -> None:
    """Each attempt is counted in SQL; the sixth is never made."""
    _, agents, _ = await started(world)
    states = []
    for attempt in range(1, 6):
        lease = await agents[0].lease()
        assert lease["attempt"] == attempt
        answer = await agents[0].report(lease, "failures", code="child-died", message="killed")
        states.append(answer.json()["state"])
    assert states == ["open"] * 4 + ["dead"]
    assert (await agents[0].poll()).status_code == 204


async def test_a_completion_is_idempotent_and_binds_the_digest(world: World) -> None:
    """The same digest again gets the same answer; another one 409."""
    _, agents, _ = await started(world)
    lease = await agents[0].lease()
    for _ in range(2):
        assert (await agents[0].report(lease, "completions", digest=DIGEST)).json()["state"] == "done"
    other = await agents[0].report(lease, "completions", digest="ef" * 32)
    assert (other.status_code, slug(other)) == (409, "digest-differs")
    assert (await world.get_round(lease["round_id"]))["got"] == 1


async def test_the_next_request_for_work_completes_the_last_task(world: World) -> None:
    """Once, however often it is asked; a task not awaited, another's task and another digest are passed over."""
    _, agents, _ = await started(world)
    mine, others = await agents[0].lease(), await agents[1].lease()
    done = {"task_id": mine["task_id"], "lease_token": mine["lease_token"], "digest": DIGEST}
    unknown = done | {"task_id": "task_" + "0" * 26}
    stolen = done | {"task_id": others["task_id"], "lease_token": others["lease_token"]}
    for entries in ([unknown, stolen, done], [done], [done | {"digest": "ef" * 32}]):
        assert (await agents[0].poll(completed=entries)).status_code == 204
    tasks = {task["id"]: task["state"] for task in (await world.get_round(mine["round_id"]))["tasks"]}
    assert (tasks[mine["task_id"]], tasks[others["task_id"]]) == ("done", "leased")
    assert (await world.get_round(mine["round_id"]))["got"] == 1
    assert (await agents[0].poll(completed=[done] * 17)).status_code == 422
    assert (await agents[0].poll(completed=[done | {"site_id": "other"}])).status_code == 422


@pytest.mark.both_databases
async def test_fifty_completions_count_once(world: World) -> None:
    """Parallel reports of one task: all heard, one counted."""
    _, agents, _ = await started(world)
    lease = await agents[0].lease()
    answers = await asyncio.gather(*(agents[0].report(lease, "completions", digest=DIGEST) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    found = await world.get_round(lease["round_id"])
    assert (found["got"], found["outstanding"]) == (1, 3)


@pytest.mark.both_databases
async def test_those_who_ask_together_are_answered_each_for_himself(world: World) -> None:
    """A suspended site is refused, a wrong digest and a stranger's task too; the others' leases and counts stand."""
    _, agents, _ = await started(world)
    await world.admin.post(f"/v1/sites/{agents[0].id}/suspension")
    first = await asyncio.gather(*(agent.poll() for agent in agents))
    assert [answer.status_code for answer in first] == [403, 200, 200, 200]
    leases = [answer.json() for answer in first[1:]]
    assert len({lease["task_id"] for lease in leases}) == 3
    done, taken, stale = await asyncio.gather(
        agents[1].report(leases[0], "completions", digest=DIGEST),
        agents[2].report(leases[0], "completions", digest=DIGEST),
        agents[3].report(leases[2] | {"lease_token": "0" * 32}, "completions", digest=DIGEST),
    )
    assert (done.status_code, taken.status_code, stale.status_code) == (200, 404, 409)
    assert (await world.get_round(leases[0]["round_id"]))["got"] == 1


async def test_a_heartbeat_never_brings_back_a_suspended_site(world: World) -> None:
    """Heartbeats race the suspension: afterwards the task is rejected for good, and the agent is told to abort."""
    _, agents, _ = await started(world)
    lease = await agents[0].lease()
    beats = [agents[0].report(lease, "heartbeats", progress=0.1) for _ in range(20)]
    suspension = world.admin.post(f"/v1/sites/{agents[0].id}/suspension")
    answers = await asyncio.gather(*beats[:10], suspension, *beats[10:])
    assert {answer.status_code for answer in answers} <= {200}
    after = await agents[0].report(lease, "heartbeats", progress=0.9)
    assert (after.json()["state"], after.json()["reason"]) == ("abort", "site-suspended")
    task = next(t for t in (await world.get_round(lease["round_id"]))["tasks"] if t["site_id"] == agents[0].id)
    assert (task["state"], task["code"]) == ("rejected", "site-suspended")
    refused = await agents[0].poll()
    assert (refused.status_code, slug(refused)) == (403, "site-suspended")
    back = await world.admin.delete(f"/v1/sites/{agents[0].id}/suspension")
    assert back.json()["state"] == "active"
    assert (await agents[0].poll()).status_code == 204


async def test_a_site_given_up_for_lost_may_still_finish(world: World) -> None:
    """Its task expired while the network was cut; the heartbeat revives it, or a late completion counts."""
    _, agents, _ = await started(world)
    first, second = await agents[0].lease(), await agents[1].lease()
    await world.watch_for(40, agents[2:])
    assert await world.sweeper.sweep() == 2
    found = await world.get_round(first["round_id"])
    assert found["outstanding"] == 2
    beat = await agents[0].report(first, "heartbeats", progress=0.7)
    assert beat.json()["state"] == "continue"
    late = await agents[1].report(second, "completions", digest=DIGEST)
    assert late.json()["state"] == "done"
    found = await world.get_round(first["round_id"])
    assert (found["outstanding"], found["got"]) == (3, 1)


async def test_a_failure_reaches_the_operator(world: World) -> None:
    """Code, message and the trace's last lines stand in the round and in the job's events."""
    _, agents, job = await started(world)
    lease = await agents[0].lease()
    body = {"code": "column-missing", "message": "no column 'chol'", "trace": ["line 1", "line 2"]}
    assert (await agents[0].report(lease, "failures", **body)).json()["state"] == "rejected"
    assert (await agents[0].report(lease, "failures", **body)).json()["state"] == "rejected"
    task = next(t for t in (await world.get_round(lease["round_id"]))["tasks"] if t["site_id"] == agents[0].id)
    assert (task["code"], task["trace"]) == ("column-missing", ["line 1", "line 2"])
    events = await world.use_cases.jobs.more_events(job["id"], 0, 100)
    told = [event.data for event in events if event.type == "task.rejected"]
    assert [(data["site_id"], data["code"]) for data in told] == [(agents[0].id, "column-missing")]


async def test_agents_are_known_by_their_certificates_only(small_world: World) -> None:
    """No signature, a person's token, another service's certificate, an unregistered site: all refused."""
    world = small_world
    federation, agents, _ = await started(world)
    anonymous = world.client()
    assert (await anonymous.post("/v1/tasks/leases", json={})).status_code == 401
    assert (await world.admin.post("/v1/tasks/leases", json={})).status_code == 401
    assert (await world.service("registry").post("/v1/tasks/leases", json={})).status_code == 403
    ghost = world.client(SigningAuth(world.identity(Subject("site", "site_ghost", federation)), "coordinator"))
    answer = await ghost.post("/v1/tasks/leases", json={})
    assert (answer.status_code, slug(answer)) == (403, "site-unknown")
    elsewhere = world.client(SigningAuth(world.identity(Subject("site", agents[0].id, "fed_other")), "coordinator"))
    assert (await elsewhere.post("/v1/tasks/leases", json={})).status_code == 403
    assert (await elsewhere.put("/v1/sites/self/profile", json=profile())).status_code == 403
    wrong_tag = world.client(SigningAuth(world.identity(Subject("site", agents[0].id, federation)), "registry"))
    assert (await wrong_tag.post("/v1/tasks/leases", json={})).status_code == 401


@pytest.mark.both_databases
async def test_no_two_live_leases_of_one_site_fit_into_the_table(world: World) -> None:
    """The database itself refuses what no code should ever write."""
    _, agents, job = await started(world)
    lease = await agents[0].lease()

    async def count(tx: Any) -> int:
        query = text("SELECT count(*) FROM tasks WHERE site_id = :site AND state = 'leased'")
        return int((await tx.session.execute(query, {"site": agents[0].id})).scalar_one())

    second = await world.job((await world.get_job(job["id"]))["federation_id"], name="second")
    await world.conductor.advance(second["id"])
    again = await agents[0].lease()
    assert again["task_id"] == lease["task_id"]
    assert await world.database.read("count", count) == 1
    await agents[0].report(lease, "completions", digest=DIGEST)
    other = await agents[0].lease()
    assert other["job_id"] == second["id"]


async def test_an_unusable_update_is_shown_at_its_site(world: World) -> None:
    """The aggregator took three updates and could not use a fourth: that task says why."""
    _, agents, _ = await started(world)
    lease: dict[str, Any] = {}
    for agent in agents:
        lease = await agent.lease()
        await agent.report(lease, "completions", digest=DIGEST)
        if agent is not agents[0]:
            world.neighbours.upload(lease["round_id"], agent.id)
    held = world.neighbours.rounds[lease["round_id"]]
    held["rejections"] = [{"site_id": agents[0].id, "code": "update-refused", "message": "not finite"}]
    await world.conductor.drive(lease["round_id"])
    await world.conductor.drive(lease["round_id"])
    found = await world.get_round(lease["round_id"])
    assert (found["phase"], found["got"]) == ("published", 3)
    task = next(t for t in found["tasks"] if t["site_id"] == agents[0].id)
    assert (task["state"], task["code"], task["message"]) == ("rejected", "update-refused", "not finite")
