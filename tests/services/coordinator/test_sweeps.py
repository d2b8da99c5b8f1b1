"""Sweeps: all jobs are judged before one is made; so many run at a time; each is submitted once; one call ends all."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import update

from tests.services.coordinator.world import World, document
from undersong.services.coordinator import jobs, sweeps
from undersong.services.coordinator.sweeps import SweepRunner
from undersong.services.coordinator.tables import JobRow

CHANGES = [{"rounds": 1}, {"rounds": 2}, {"rounds": 3, "recipe": {"params": {"epochs": 2}}}]


def runner(world: World) -> SweepRunner:
    """What a worker has."""
    return SweepRunner(world.database, world.use_cases.jobs)


async def ready(world: World) -> str:
    federation = await world.federation()
    await world.sites(federation)
    return federation


async def make(world: World, federation: str, code: int = 201, **changes: Any) -> dict[str, Any]:
    body = {"name": "rates", "document": document(federation), "changes": CHANGES, **changes}
    answer = await world.admin.post("/v1/sweeps", json=body)
    assert answer.status_code == code, answer.text
    return dict(answer.json())


async def shown(world: World, made: dict[str, Any]) -> dict[str, Any]:
    return dict((await world.admin.get(f"/v1/sweeps/{made['id']}")).json())


def errors_of(answer: Any) -> dict[str, str]:
    assert answer.status_code == 422
    return {error["path"]: error["message"] for error in answer.json()["errors"]}


def states(sweep: dict[str, Any]) -> list[str]:
    return [job["state"] for job in sweep["jobs"]]


async def test_its_jobs_run_some_at_a_time(world: World) -> None:
    made = await make(world, await ready(world), parallel=2)
    assert made["parameters"] == ["/rounds", "/recipe/params/epochs"]
    assert [job["values"] for job in made["jobs"]] == [[1, None], [2, None], [3, 2]]
    assert states(made) == ["waiting"] * 3
    assert await runner(world).sweep() == 2
    assert await runner(world).sweep() == 0
    sweep = await shown(world, made)
    assert states(sweep) == ["running", "running", "waiting"]
    job = (await world.admin.get(f"/v1/jobs/{sweep['jobs'][1]['job_id']}")).json()
    assert (job["name"], job["spec"]["rounds"], job["spec"]["tags"]) == ("heart disease 2", 2, ["sweep:rates"])
    event = (await world.use_cases.jobs.more_events(job["id"], 0, 1))[0]
    assert event.data["sweep_id"] == made["id"]
    await world.admin.post(f"/v1/jobs/{job['id']}/pause")
    assert await runner(world).sweep() == 0, "a paused job keeps its place"
    await world.admin.post(f"/v1/jobs/{job['id']}/cancel")
    assert await runner(world).sweep() == 1
    sweep = await shown(world, made)
    assert (states(sweep), sweep["state"]) == (["running", "cancelled", "running"], "running")
    found = (await world.admin.get("/v1/jobs", params={"tag": "sweep:rates"})).json()["items"]
    assert len(found) == 3


async def test_one_bad_job_refuses_all_with_its_place(small_world: World) -> None:
    world = small_world
    federation = await ready(world)
    wrong = [{"rounds": 0}, {"rounds": 1}, {"recipe": {"params": {"model": "magic"}}, "colour": 1}]
    for path in ("/v1/sweeps", "/v1/sweeps/validations"):
        body = {"name": "rates", "document": document(federation), "changes": wrong}
        found = errors_of(await world.admin.post(path, json=body))
        assert {"/changes/0/rounds", "/changes/2/recipe/params/model", "/changes/2/colour"} <= found.keys()
        assert not any(each.startswith("/changes/1") for each in found)
    assert (await world.admin.get(f"/v1/federations/{federation}/sweeps")).json()["items"] == []
    moved = {"name": "rates", "document": document(federation), "changes": [{"federation_id": "fed_other"}]}
    assert errors_of(await world.admin.post("/v1/sweeps", json=moved)).keys() == {"/changes/0/federation_id"}
    for odd in ({"name": "with space"}, {"changes": []}, {"changes": [{}] * 201}, {"parallel": 0}, {"colour": 1}):
        await make(world, federation, 422, **odd)


async def test_what_all_jobs_cost_in_privacy_is_summed(small_world: World) -> None:
    world = small_world
    federation = await ready(world)
    noise = {"privacy": {"model": "distributed", "delta": 1e-6, "epsilon": 1}, "update": {"clip_norm": 1.0},
             "rounds": 2, "strategy": {"name": "fedavg", "weighting": "equal"}}  # fmt: skip
    body = {"name": "noisy", "document": document(federation, **noise),
            "changes": [{"privacy": {"epsilon": 1}}, {"privacy": {"epsilon": 3}}]}  # fmt: skip
    answer = await world.admin.post("/v1/sweeps/validations", json=body)
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert plan["epsilon"] == pytest.approx(4, rel=0.01)
    assert plan["delta"] == pytest.approx(2e-6)
    made = (await world.admin.post("/v1/sweeps", json=body)).json()
    assert (made["epsilon"], made["delta"]) == (plan["epsilon"], plan["delta"])


async def test_a_job_is_submitted_once_by_two_workers(world: World) -> None:
    made = await make(world, await ready(world), parallel=1)
    await asyncio.gather(runner(world).sweep(), runner(world).sweep())
    assert states(await shown(world, made)) == ["running", "waiting", "waiting"]
    assert len((await world.admin.get("/v1/jobs")).json()["items"]) == 1


async def test_after_a_crash_the_job_is_the_sweep_s_and_ends_with_it(
    small_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = small_world
    made = await make(world, await ready(world), parallel=1)

    def die(name: str) -> None:
        raise RuntimeError(name)

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "point", die)
        assert await runner(world).sweep() == 0
    answer = await world.admin.post(f"/v1/sweeps/{made['id']}/cancel")
    assert states(answer.json()) == ["cancelled", "left_out", "left_out"]
    assert [job["state"] for job in (await world.admin.get("/v1/jobs")).json()["items"]] == ["cancelled"]


async def test_no_job_runs_on_where_a_sweep_is_cancelled_as_its_turn_comes(world: World) -> None:
    federation = await ready(world)
    for name in ("a", "b", "c"):
        made = await make(world, federation, name=name, parallel=3)
        cancelling = world.admin.post(f"/v1/sweeps/{made['id']}/cancel")
        _, answer = await asyncio.gather(runner(world).sweep(), cancelling)
        assert answer.status_code == 200, answer.text
        assert set(states(await shown(world, made))) <= {"cancelled", "left_out"}
    listed = (await world.admin.get("/v1/jobs")).json()["items"]
    assert {job["state"] for job in listed} <= {"cancelled"}


async def test_a_job_that_has_ended_holds_up_no_cancellation(small_world: World) -> None:
    world = small_world
    made = await make(world, await ready(world), parallel=2)
    await runner(world).sweep()
    over = update(JobRow).where(JobRow.id == (await shown(world, made))["jobs"][0]["job_id"])
    await world.database.run("end", lambda tx: tx.session.execute(over.values(state="succeeded")))
    answer = await world.admin.post(f"/v1/sweeps/{made['id']}/cancel")
    assert (answer.status_code, states(answer.json())) == (200, ["succeeded", "cancelled", "left_out"])


async def test_sweeps_that_wait_hold_up_no_other(small_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = small_world
    federation = await ready(world)
    monkeypatch.setattr(sweeps, "TOGETHER", 1)
    first, second = [await make(world, federation, name=name, parallel=1) for name in ("a", "b")]
    assert await runner(world).sweep() == 2
    assert await runner(world).sweep() == 0
    assert states(await shown(world, second)) == states(await shown(world, first)) == ["running", "waiting", "waiting"]


async def test_of_two_sweeps_of_one_name_at_once_one_is_made(world: World) -> None:
    federation = await ready(world)
    body = {"name": "rates", "document": document(federation), "changes": CHANGES}
    answers = await asyncio.gather(*(world.admin.post("/v1/sweeps", json=body) for _ in range(3)))
    assert sorted(each.status_code for each in answers) == [201, 409, 409]


async def test_a_cancelled_sweep_ends_its_jobs_and_submits_none(small_world: World) -> None:
    world = small_world
    made = await make(world, await ready(world), parallel=1)
    await runner(world).sweep()
    for _ in range(2):
        answer = await world.admin.post(f"/v1/sweeps/{made['id']}/cancel")
        assert answer.status_code == 200, answer.text
        assert (states(answer.json()), answer.json()["state"]) == (["cancelled", "left_out", "left_out"], "cancelled")
    assert await runner(world).sweep() == 0


async def test_a_job_that_is_refused_in_its_turn_says_why_and_the_others_go_on(small_world: World) -> None:
    world = small_world
    federation = await ready(world)
    made = await make(world, federation, parallel=3)
    await world.run("UPDATE sites SET suspended = true")
    assert await runner(world).sweep() == 3
    sweep = await shown(world, made)
    assert (states(sweep), sweep["state"]) == (["refused"] * 3, "ended")
    assert "no active site" in sweep["jobs"][0]["reason"]
    assert await runner(world).sweep() == 0
    await world.run("UPDATE sites SET suspended = false")
    await make(world, federation, 409)
    other = await world.person("eve", ("scientist", await world.federation("other")))
    assert (await other.get(f"/v1/sweeps/{made['id']}")).status_code == 404
    assert (await other.post(f"/v1/sweeps/{made['id']}/cancel")).status_code == 404
