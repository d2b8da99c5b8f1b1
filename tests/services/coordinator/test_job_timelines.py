"""A job's rounds with what happened in them, in windows from the newest back."""

from tests.services.coordinator.test_job_comparisons import run
from tests.services.coordinator.test_rounds import work_once
from tests.services.coordinator.world import World
from undersong.services.coordinator.dashboard.gantt import gantt


async def test_windows_go_from_the_newest_rounds_back(world: World) -> None:
    """Each round once, with its own events; a failure is there with its reason."""
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await run(world, federation, agents)
    person = await world.use_cases.accounts.lookup(world.admin.headers["authorization"].removeprefix("Bearer "))
    assert person is not None
    timelines, seen, before = world.use_cases.timelines, [], None
    while True:
        window = await timelines.window(person, job, 2, before)
        ids = [each.round.id for each in window.rounds]
        assert {event.data["round_id"] for event in window.events if event.type == "task.done"} == set(ids)
        seen = ids + seen
        if not window.earlier:
            break
        before = ids[0]
    rounds = (await world.admin.get(f"/v1/jobs/{job}/rounds")).json()["items"]
    assert seen == [each["id"] for each in rounds]
    assert (await timelines.window(person, job, 9, types={"task.done"})).events[0].type == "task.done"


async def test_the_pages_of_a_job_are_those_of_its_newest_rounds(small_world: World) -> None:
    """A page of the real source: a task that failed stands on the timeline and in the site's last rounds."""
    world = small_world
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    lease = await agents[0].lease()
    await agents[0].report(lease, "failures", code="out-of-memory", message="too large", retryable=True)
    done = await work_once(world, agents)
    await world.conductor.drive(done[0]["round_id"])
    view = world.view()
    page = await view.timeline(job["id"], None)
    assert {move.code for move in page.moves if move.state == "open"} == {"out-of-memory"}
    chart = gantt(page.rounds, page.moves, page.names, world.clock())
    faults = [bar.text for lane in chart.lanes for bar in lane.bars if bar.kind == "fault"]
    assert len(faults) == 1
    assert "too large (out-of-memory); it is tried again" in faults[0]
    log = await view.log(job["id"], None, problems=False)
    assert [line.number for line in log.lines] == sorted((line.number for line in log.lines), reverse=True)
    assert log.lines[-1].text == "the job is created"
    (told,) = (await view.log(job["id"], None, problems=True)).lines
    assert (told.code, told.detail, told.problem) == ("out-of-memory", "too large", True)
    assert told.who in {lane.name for lane in chart.lanes}
    earlier = await view.log(job["id"], told.number, problems=False)
    assert [line.number for line in earlier.lines] == list(range(told.number - 1, 0, -1))
    shown = await view.job(job["id"])
    assert {part.recent[0] for part in shown.parts} == {("statistics 0", "done")}
    before = await view.pulse()
    assert await view.pulse() == before
    assert 200 in [(await agent.poll()).status_code for agent in agents]
    assert await view.pulse() != before
    assert await view.measures(job["id"]) == []
