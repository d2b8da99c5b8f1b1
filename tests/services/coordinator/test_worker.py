"""The worker with real streams: hints make it quick, and nothing on the path sleeps."""

import asyncio
import time
from typing import Any

import pytest

from tests.services.coordinator.world import SiteAgent, World
from undersong.services.coordinator.conductor import Conductor
from undersong.services.coordinator.moves import ROUNDS_TOPIC
from undersong.services.coordinator.rounds import JOBS_TOPIC
from undersong.shared.ids import new_id
from undersong.shared.queues import Consumer, Event, background

DIGEST = "cd" * 32


async def agent_loop(world: World, agent: SiteAgent) -> None:
    """Poll, upload, report, in a loop; the last upload of a round makes the aggregator notify."""
    while True:
        answer = await agent.poll(wait_s=20)
        if answer.status_code != 200:
            continue
        lease: dict[str, Any] = answer.json()
        world.neighbours.upload(lease["round_id"], agent.id)
        if world.neighbours.rounds[lease["round_id"]]["state"] == "published":
            event = Event(new_id("evt"), "aggregator.rounds", "round.published", lease["round_id"], None)
            await world.streams.notify(event)
        await agent.report(lease, "completions", digest=DIGEST)


@pytest.mark.slow
async def test_a_job_of_many_rounds_runs_on_hints_alone(small_world: World) -> None:
    """Twelve training rounds with three agents, no sweeper at all: every step is woken by a hint."""
    world = small_world
    federation = await world.federation()
    agents = await world.sites(federation, 3)
    conductor: Conductor = world.conductor
    consumers = [
        Consumer(world.streams, topic, "coordinator", handle).run()
        for topic, handle in (
            (JOBS_TOPIC, conductor.on_job),
            (ROUNDS_TOPIC, conductor.on_round),
            ("aggregator.rounds", conductor.on_aggregator),
        )
    ]
    async with background(world.use_cases.attendance.run(), *consumers, *(agent_loop(world, a) for a in agents)):
        began = time.monotonic()
        job = await world.job(federation, rounds=12, evaluation={"every": 4})
        while (await world.get_job(job["id"]))["state"] == "running":
            assert time.monotonic() - began < 100
            await asyncio.sleep(0.05)
        took_s = time.monotonic() - began
        while len(world.neighbours.metrics) < 3:  # the registry hears of the last ones after the job's end
            assert time.monotonic() - began < 100
            await asyncio.sleep(0.05)
    found = await world.get_job(job["id"])
    assert (found["state"], found["progress"]["trained"]) == ("succeeded", 12)
    assert len(found["progress"]["scores"]) == 3
    assert len(world.neighbours.metrics) == 3
    print(f"{took_s / 17:.3f} s a round")
