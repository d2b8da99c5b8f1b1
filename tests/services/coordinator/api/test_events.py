"""Server-sent events: in order, without gaps, resumable, with and without Redis."""

import asyncio
import json
from typing import Any

from tests.services.coordinator.world import SiteAgent, World

DIGEST = "cd" * 32


async def follow(world: World, job_id: str, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """All events until the stream ends."""
    answer = await world.admin.get(f"/v1/jobs/{job_id}/events", headers=headers or {})
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines]


async def work_through(world: World, agents: list[SiteAgent]) -> None:
    for _ in range(8):
        rounds = set()
        for agent in agents:
            answer = await agent.poll()
            if answer.status_code == 200:
                lease = answer.json()
                world.neighbours.upload(lease["round_id"], agent.id)
                await agent.report(lease, "completions", digest=DIGEST)
                rounds.add(lease["round_id"])
        for round_id in rounds:
            await world.conductor.drive(round_id)


async def test_a_listener_hears_everything_in_order_until_the_end(world: World) -> None:
    """Numbers without gaps from creation to success; a second listener resumes behind what it heard."""
    federation = await world.federation()
    agents = await world.sites(federation, 3)
    job = await world.job(federation, rounds=1)
    listening = asyncio.create_task(follow(world, job["id"]))
    await world.conductor.advance(job["id"])
    await work_through(world, agents)
    events = await asyncio.wait_for(listening, 60)
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    types = [event["type"] for event in events]
    assert types[0] == "job.created"
    assert types[-1] == "job.succeeded"
    assert types.count("round.published") == 4
    assert types.count("task.done") == 3 + 1 + 3 + 3
    assert types.count("task.leased") == types.count("task.done")
    again = await follow(world, job["id"], {"last-event-id": str(len(events) - 2)})
    assert [event["number"] for event in again] == [len(events) - 1, len(events)]
    assert await follow(world, job["id"], {"last-event-id": str(len(events))}) == []


async def test_a_stranger_hears_nothing(small_world: World) -> None:
    """404 for another federation's person, 422 for a resumption that is no number."""
    world = small_world
    federation, other = await world.federation(), await world.federation("other")
    await world.sites(federation, 3)
    job = await world.job(federation)
    stranger = await world.person("stranger", ("scientist", other))
    assert (await stranger.get(f"/v1/jobs/{job['id']}/events")).status_code == 404
    bad = await world.admin.get(f"/v1/jobs/{job['id']}/events", headers={"last-event-id": "x"})
    assert bad.status_code == 422


async def test_the_stream_ends_when_the_process_is_asked_to_end(small_world: World) -> None:
    """A listener and a long poll are released at once."""
    world = small_world
    federation = await world.federation()
    agents = await world.sites(federation, 3)
    job = await world.job(federation)
    releasing = asyncio.create_task(world.use_cases.attendance.release(world.app.state.stopping))
    listening = asyncio.create_task(follow(world, job["id"]))
    polling = asyncio.create_task(agents[0].poll(wait_s=30))
    await asyncio.sleep(0.3)
    world.app.state.stopping.set()
    answer = await asyncio.wait_for(polling, 25)
    assert (answer.status_code, answer.headers["next-poll-s"]) == (204, "1")
    await asyncio.wait_for(listening, 25)
    await releasing
