"""Jobs side by side: what differs, how each learned, and who may look."""

from typing import Any

from tests.services.coordinator.test_rounds import work_once
from tests.services.coordinator.world import World


async def run(world: World, federation: str, agents: list[Any], **changes: Any) -> str:
    """Return the id of a job that ran to its end."""
    job = await world.job(federation, **changes)
    await world.conductor.advance(job["id"])
    while done := await work_once(world, agents):
        await world.conductor.drive(done[0]["round_id"])
    return str(job["id"])


async def test_jobs_are_told_side_by_side(world: World) -> None:
    """Only settings that differ; curves over rounds, time and bytes; a repeated job counts once."""
    federation = await world.federation()
    agents = await world.sites(federation)
    one = await run(world, federation, agents, evaluation={"every": 1})
    two = await run(world, federation, agents, name="other", rounds=1, recipe={"name": "tabular", "params": {}})
    answer = await world.admin.get("/v1/job-comparison", params={"jobs": f"{one},{two},{one}"})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [job["id"] for job in found["jobs"]] == [one, two]
    assert {each["path"]: each["values"] for each in found["settings"]} == {
        "/recipe/params/epochs": [1, None],
        "/rounds": [2, 1],
        "/evaluation/every": [1, 2],
    }
    first, second = (job["curve"] for job in found["jobs"])
    assert found["metrics"][0] == "accuracy"
    assert "examples" not in found["metrics"]
    assert first["metrics"]["accuracy"] == [17 / 20, 17 / 20]
    assert first["update_bytes"] == [4 * 3 * 4, 2 * 4 * 3 * 4], "four sites, three parameters of 32 bits, each round"
    assert first["seconds"] == sorted(first["seconds"])
    assert len(second["rounds"]) == 1
    assert [(job["trained"], job["sites"], job["update_bytes"]) for job in found["jobs"]] == [
        (2, 4.0, 96),
        (1, 4.0, 48),
    ]


async def test_what_cannot_be_compared_is_refused(small_world: World) -> None:
    """None, nine, one that is not there, and one of another federation, which is answered alike."""
    world = small_world
    federation = await world.federation()
    await world.sites(federation)
    job = await world.job(federation)
    for jobs in (",", ",".join(f"job_{at}" for at in range(9))):
        refused = await world.admin.get("/v1/job-comparison", params={"jobs": jobs})
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:undersong:problem:comparison-invalid")
    stranger = await world.person("eve", ("scientist", await world.federation("lungs")))
    answers = [
        await stranger.get("/v1/job-comparison", params={"jobs": each}) for each in (job["id"], "job_" + "0" * 26)
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
