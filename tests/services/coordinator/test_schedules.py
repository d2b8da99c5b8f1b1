"""Schedules: each time submits one job at most, judged as by hand, with the roles of the person who made it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.services.coordinator.test_jobs import errors_of
from tests.services.coordinator.world import World, document
from undersong.services.coordinator import jobs as coordinator_jobs
from undersong.services.coordinator import schedules
from undersong.services.coordinator.domain.schedules import ScheduleInvalid, Timetable
from undersong.services.coordinator.repository.schedules import ScheduleRepository
from undersong.services.coordinator.schedules import MOST, Scheduler

HOURLY = "7 * * * *"


def scheduler(world: World) -> Scheduler:
    """What a worker has."""
    return Scheduler(world.database, world.use_cases.jobs)


async def ready(world: World) -> str:
    """A federation with sites that can take part."""
    federation = await world.federation()
    await world.sites(federation)
    return federation


async def make(world: World, federation: str, code: int = 201, **changes: Any) -> dict[str, Any]:
    body = {"document": document(federation), "cron": HOURLY, **changes}
    answer = await world.admin.post("/v1/schedules", json=body)
    assert answer.status_code == code, answer.text
    return dict(answer.json())


async def shown(world: World, made: dict[str, Any]) -> dict[str, Any]:
    return dict((await world.admin.get(f"/v1/schedules/{made['id']}")).json())


async def jobs(world: World) -> list[dict[str, Any]]:
    return list((await world.admin.get("/v1/jobs")).json()["items"])


async def an_hour_later(world: World) -> None:
    """The sites are heard of, and the next time of an hourly schedule has come."""
    world.clock.advance(3600)
    assert await scheduler(world).sweep() == 1


@pytest.mark.parametrize(
    ("cron", "zone", "after", "times"),
    [
        ("30 2 * * mon", "UTC", "2026-12-01T00:00Z", ["2026-12-07T02:30Z", "2026-12-14T02:30Z"]),
        ("30 9 * * *", "Asia/Shanghai", "2026-12-01T00:00Z", ["2026-12-01T01:30Z", "2026-12-02T01:30Z"]),
        # clocks go forward on 28 March 2027, over 02:30; and back on 31 October, when 02:30 comes twice
        ("30 2 * * *", "Europe/Berlin", "2027-03-27T12:00Z", ["2027-03-28T01:00Z", "2027-03-29T00:30Z"]),
        ("30 2 * * *", "Europe/Berlin", "2027-10-30T12:00Z", ["2027-10-31T00:30Z", "2027-11-01T01:30Z"]),
        ("30 2 * * *", "Europe/Berlin", "2027-10-31T01:10Z", ["2027-11-01T01:30Z", "2027-11-02T01:30Z"]),
        ("*/30 * * * *", "Europe/Berlin", "2027-10-31T01:10Z", ["2027-10-31T01:30Z", "2027-10-31T02:00Z"]),
    ],
)
def test_times_are_those_of_the_zone(cron: str, zone: str, after: str, times: list[str]) -> None:
    expected = [datetime.fromisoformat(each) for each in times]
    assert Timetable.parse(cron, zone).upcoming(datetime.fromisoformat(after))[:2] == expected


@pytest.mark.parametrize(
    ("cron", "zone", "path"),
    [("61 * * * *", "UTC", "/cron"), ("* * * *", "UTC", "/cron"), ("", "UTC", "/cron"), ("@daily", "UTC", "/cron"),
     ("0 0 30 2 *", "UTC", "/cron"), (HOURLY, "Europe/Berln", "/timezone"), (HOURLY, "../etc/passwd", "/timezone"),
     (HOURLY, "", "/timezone"), ("\ud800", "UTC", "/cron"), ("* * * * * *", "UTC", "/cron"),
     ("1 1 1 1 1 1 2027", "UTC", "/cron"), (HOURLY, "localtime", "/timezone"), (HOURLY, "posix/UTC", "/timezone")],
)  # fmt: skip
def test_what_is_no_timetable_is_refused_at_its_field(cron: str, zone: str, path: str) -> None:
    with pytest.raises(ScheduleInvalid) as refused:
        Timetable.parse(cron, zone)
    assert [error.path for error in refused.value.errors] == [path]
    if zone == "Europe/Berln":
        assert "Europe/Berlin" in refused.value.errors[0].message


async def test_each_time_submits_one_job(world: World) -> None:
    federation = await ready(world)
    made = await make(world, federation, overlap=True)
    assert (made["words"], made["state"], len(made["upcoming"])) == ("At minute 7 of every hour", "active", 3)
    assert await scheduler(world).sweep() == 0
    await an_hour_later(world)
    first = await jobs(world)
    told = await shown(world, made)
    assert len(first) == 1
    assert (told["last"]["outcome"], told["last"]["job_id"]) == ("submitted", first[0]["id"])
    assert told["last"]["at"] == made["upcoming"][0]
    event = (await world.use_cases.jobs.more_events(first[0]["id"], 0, 1))[0]
    assert event.data["schedule_id"] == made["id"]
    world.clock.advance(5 * 3600)  # no worker ran: what was missed is one job, not five
    assert await scheduler(world).sweep() == 1
    assert await scheduler(world).sweep() == 0
    assert len(await jobs(world)) == 2


async def test_a_time_is_taken_once_by_two_workers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers at once; and one that dies when the job is made."""
    federation = await ready(world)
    made = await make(world, federation, overlap=True)
    world.clock.advance(3600)

    def die(name: str) -> None:
        raise RuntimeError(name)

    with monkeypatch.context() as patched:
        patched.setattr(coordinator_jobs, "point", die)
        await asyncio.gather(scheduler(world).sweep(), scheduler(world).sweep())
    assert await scheduler(world).sweep() == 0
    (job,) = await jobs(world)
    assert (await shown(world, made))["last"]["job_id"] == job["id"]


async def test_a_pause_as_the_time_comes_leaves_no_job_behind_it(world: World) -> None:
    federation = await ready(world)
    for name in ("a", "b", "c"):
        made = await make(world, federation, name=name)
        world.clock.advance(3600)
        pausing = world.admin.post(f"/v1/schedules/{made['id']}/pause")
        _, paused = await asyncio.gather(scheduler(world).sweep(), pausing)
        taken = (await shown(world, made))["last"]
        assert taken == paused.json()["last"], "what is told after the pause is told by it"


async def test_schedules_that_wait_hold_up_no_other(small_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = small_world
    federation = await ready(world)
    monkeypatch.setattr(schedules, "TOGETHER", 1)
    for name in ("a", "b"):
        await make(world, federation, name=name)
    world.clock.advance(3600)
    assert await scheduler(world).sweep() == 2
    assert len(await jobs(world)) == 2


async def test_a_time_is_skipped_while_the_last_job_runs(small_world: World) -> None:
    federation = await ready(small_world)
    made = await make(small_world, federation)
    await an_hour_later(small_world)
    (job,) = await jobs(small_world)
    await an_hour_later(small_world)
    last = (await shown(small_world, made))["last"]
    assert (last["outcome"], last["job_id"]) == ("skipped", job["id"])
    await small_world.admin.post(f"/v1/jobs/{job['id']}/cancel")
    await an_hour_later(small_world)
    assert len(await jobs(small_world)) == 2


async def test_the_document_is_judged_and_the_roles_are_those_of_now(small_world: World) -> None:
    world = small_world
    federation = await ready(world)
    bad = await world.admin.post("/v1/schedules", json={"document": document(federation, rounds=-1), "cron": HOURLY})
    assert errors_of(bad).keys() == {"/rounds"}
    scientist = await world.person("ada", ("scientist", federation))
    body = {"document": document(federation), "cron": HOURLY, "overlap": True}
    made = (await scientist.post("/v1/schedules", json=body)).json()
    await world.run("UPDATE sites SET suspended = true")
    await an_hour_later(world)
    last = (await shown(world, made))["last"]
    assert (last["outcome"], last["job_id"]) == ("refused", None)
    assert "no active site" in last["reason"]
    await world.run("UPDATE sites SET suspended = false")
    await world.run("DELETE FROM grants WHERE user_id = (SELECT user_id FROM schedules)")
    await an_hour_later(world)
    assert (await shown(world, made))["last"]["outcome"] == "refused"
    assert await jobs(world) == []


async def test_a_schedule_that_cannot_be_judged_waits_and_holds_up_no_other(small_world: World) -> None:
    world = small_world
    federation = await ready(world)
    broken, fine = await make(world, federation), await make(world, federation)
    await world.run("UPDATE schedules SET cron = 'odd' WHERE id = :id", id=broken["id"])
    world.clock.advance(3600)
    assert await scheduler(world).sweep() == 2
    assert [each["spec"]["name"] for each in await jobs(world)][-1] == fine["name"]
    assert (await shown(world, fine))["last"]["outcome"] == "submitted"


async def test_paused_and_deleted_schedules_submit_nothing(small_world: World) -> None:
    world = small_world
    made = await make(world, await ready(world))
    path = f"/v1/schedules/{made['id']}"
    paused = (await world.admin.post(f"{path}/pause")).json()
    assert (paused["state"], paused["upcoming"]) == ("paused", [])
    world.clock.advance(7200)
    assert await scheduler(world).sweep() == 0
    resumed = (await world.admin.post(f"{path}/resume")).json()
    assert resumed["state"] == "active"
    assert datetime.fromisoformat(resumed["upcoming"][0]) > datetime.now(UTC) + timedelta(hours=2)
    for _ in range(2):
        assert (await world.admin.delete(path)).status_code == 204
    world.clock.advance(7200)
    assert await scheduler(world).sweep() == 0
    assert (await world.admin.get(path)).status_code == 404
    assert (await world.admin.post(f"{path}/resume")).status_code == 404


async def test_a_federation_has_a_limit_of_schedules(small_world: World) -> None:
    world = small_world
    federation = await ready(world)
    made = await make(world, federation)
    row = await world.database.read("get", lambda tx: ScheduleRepository(tx).get(made["id"]))

    async def more(tx: Any) -> None:
        for number in range(MOST - 1):
            await ScheduleRepository(tx).add(type(row)(**{**_fields(row), "id": f"sch_{number}"}))

    await world.database.run("more", more)
    refused = await world.admin.post("/v1/schedules", json={"document": document(federation), "cron": HOURLY})
    assert refused.status_code == 409


def _fields(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}
