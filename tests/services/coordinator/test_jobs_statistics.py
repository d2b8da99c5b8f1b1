"""Statistics jobs at the coordinator: judged whole, asked round by round, answered with small cells hidden."""

from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import text

from tests.services.coordinator.world import Neighbours, SiteAgent, World, profile
from tests.shared.statistics.hospitals import SITES, count, frame, hospital
from undersong.services.coordinator.domain.progress import MAX_ATTEMPTS_PER_STEP
from undersong.shared.statistics.measures import SALT, asked_of

HOSPITALS = [hospital(name) for name in SITES]
RECORDS = frame()
RECIPE = {
    "name": "statistics",
    "version": "1",
    "digest": "cd" * 32,
    "task": "summary",
    "params_schema": {},
    "statistics": True,
    "description": "",
    "classes": None,
}


def told(**changes: Any) -> dict[str, Any]:
    """A hospital's profile: the example's columns."""
    columns = [column.model_dump(mode="json") for column in HOSPITALS[0].columns]
    heart = {"name": "heart", "kind": "csv", "columns": columns, "label": "target", "rows": 200}
    return profile(recipes=[*profile()["recipes"], RECIPE], datasets=[heart]) | changes


def asking(federation: str, *queries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "kind": "statistics",
        "name": "figures",
        "federation_id": federation,
        "data": {"dataset": "heart"},
        "queries": list(queries),
        "deadlines": {"round_s": 60},
    } | changes


def add_up(manifest: dict[str, Any]) -> list[float]:
    """What the aggregator opens: the sums over the four hospitals' rows."""
    asked = asked_of(manifest["recipe"]["params"])
    parts = [np.concatenate([np.full(SALT, 7.0), *(count(m, rows) for m in asked.measures)]) for rows in HOSPITALS]
    return list(map(float, np.sum(parts, axis=0)))


def errors_of(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {error["path"]: error["message"] for error in answer.json()["errors"]}


async def hospitals(world: World, **changes: Any) -> tuple[str, list[SiteAgent]]:
    world.neighbours.add_up = add_up
    federation = await world.federation()
    return federation, [await world.site(federation, name, told(**changes)) for name in SITES]


async def play_round(world: World, agents: list[SiteAgent], job: dict[str, Any]) -> dict[str, Any]:
    """Let every site answer the round in flight and return the round's manifest."""
    round_id = (await world.get_job(job["id"]))["round_id"]
    assert round_id is not None
    for agent in agents:
        lease = await agent.lease()
        world.neighbours.upload(round_id, agent.id)
        assert (await agent.report(lease, "completions", digest="ab" * 32)).status_code == 200
    await world.conductor.drive(round_id)
    return dict(world.neighbours.rounds[round_id]["manifest"]["manifest"])


async def test_a_job_of_several_queries_is_asked_in_rounds_and_answered(world: World) -> None:
    """One round for what needs one, more for what needs more; nothing that was opened goes back to the sites."""
    federation, agents = await hospitals(world)
    body = asking(
        federation,
        {"query": "mean", "columns": ["age", "chol"], "name": "means"},
        {"query": "regression", "target": "thalach", "features": ["age", "sex"]},
        {"query": "contingency", "columns": ["cp", "target"], "values": {"target": [0, 1]}},
    )
    answer = await world.admin.post("/v1/jobs", json=body)
    assert answer.status_code == 201, answer.text
    job = answer.json()
    await world.conductor.advance(job["id"])
    first = await play_round(world, agents, job)
    partial = (await world.admin.get(f"/v1/jobs/{job['id']}/results")).json()
    assert [result["name"] for result in partial["results"]] == ["means", "contingency of cp, target"]
    second = await play_round(world, agents, job)
    assert first["context"] == second["context"] == {}
    assert {m["measure"] for m in first["recipe"]["params"]["measures"]} == {"moments", "table"}
    assert {m["measure"] for m in second["recipe"]["params"]["measures"]} == {"products"}
    assert second["data"]["features"] == ["age", "sex", "thalach"]
    done = await world.get_job(job["id"])
    assert (done["state"], done["progress"]["asked"]) == ("succeeded", 2)
    found = (await world.admin.get(f"/v1/jobs/{job['id']}/results")).json()
    means = {column["column"]: column["mean"] for column in found["results"][0]["columns"]}
    assert means == pytest.approx({"age": RECORDS.age.mean(), "chol": RECORDS.chol.mean()})
    assert found["results"][1]["status"] == "ok"
    assert not world.neighbours.models, "a statistics job makes no model"
    stranger = await world.person("stranger", ("scientist", await world.federation("other")))
    assert (await stranger.get(f"/v1/jobs/{job['id']}/results")).status_code == 404
    training = await world.job(federation, data={"dataset": "heart", "label": "target"})
    assert (await world.admin.get(f"/v1/jobs/{training['id']}/results")).status_code == 404


async def test_what_was_opened_is_erased_when_the_job_ends(small_world: World) -> None:
    """The database keeps what may be shown; small cells are in it no more."""
    world = small_world
    federation, agents = await hospitals(world)
    body = asking(federation, {"query": "contingency", "columns": ["cp", "thal"]}, min_cell=40)
    job = (await world.admin.post("/v1/jobs", json=body)).json()
    await world.conductor.advance(job["id"])
    await play_round(world, agents, job)
    found = (await world.admin.get(f"/v1/jobs/{job['id']}/results")).json()["results"][0]
    assert None in [cell for row in found["cells"] for cell in row]

    async def stored(tx: Any) -> Any:
        return (await tx.session.execute(text("select context, results from jobs"))).all()

    ((context, _results),) = await world.database.read("test", stored)
    assert context in ("{}", {})


async def test_every_error_of_the_queries_is_told_with_its_path(small_world: World) -> None:
    """Form, columns, types, ranges, sizes, cohort, engine: one answer."""
    world = small_world
    federation, agents = await hospitals(world)
    bad = asking(
        federation,
        {"query": "median", "column": "age"},
        {"query": "mean", "columns": ["age", "blood", "cp"]},
        {"query": "histogram", "column": "sex"},
        {"query": "histogram", "column": "age", "range": [80, 20]},
        {"query": "contingency", "columns": ["cp", "age"]},
        {"query": "quantiles", "column": "age", "probabilities": [1.5], "depth": 40},
        {"query": "k_means", "columns": ["age", "age"]},
        {"query": "k_means", "columns": ["age"], "clusters": 50, "starts": 16, "iterations": 500},
        {"query": "regression", "target": "chol", "features": ["chol"]},
        {"query": "correlation", "columns": ["age"]},
        {"query": "kaplan_meier", "time": "age", "event": "target", "until": 90.0, "group": "chol"},
        {"query": "cox_regression", "time": "age", "event": "cp", "features": ["sex", "blood"]},
        {"query": "logistic_regression", "target": "target", "features": ["age"], "exposure": "chol"},
        min_cell=0,
        engine="magic",
        cohort={"min": 2},
        rounds=3,
    )
    found = errors_of(await world.admin.post("/v1/jobs/validations", json=bad))
    assert set(found) == {
        "/queries/0/query",
        "/queries/1/columns/1",
        "/queries/1/columns/2",
        "/queries/2/column",
        "/queries/3",
        "/queries/4/columns/1",
        "/queries/5/probabilities",
        "/queries/5/probabilities/0",
        "/queries/5/depth",
        "/queries/6",
        "/queries/7/iterations",
        "/queries/8",
        "/queries/9/columns",
        "/queries/10/group",
        "/queries/11/event",
        "/queries/11/features/1",
        "/queries/12",
        "/min_cell",
        "/engine",
        "/cohort/min",
        "/rounds",
    }
    assert "contingency" in found["/queries/2/column"]
    assert "map its texts to 0 and 1" in found["/queries/11/event"]
    assert "edges" in found["/queries/4/columns/1"]
    assert errors_of(await world.admin.post("/v1/jobs", json=bad)) == found

    await other_faults(world, federation)
    await sites_that_differ(world, federation, agents)


async def other_faults(world: World, federation: str) -> None:
    """Too much for one round, no queries, an unknown kind, a training job with the statistics recipe."""
    path = "/v1/jobs/validations"
    much = asking(federation, *[{"query": "quantiles", "column": "age", "depth": 14}] * 20)
    assert "numbers" in errors_of(await world.admin.post(path, json=much))["/queries"]
    centres = {"query": "k_means", "columns": ["age", "chol", "thalach", "trestbps", "oldpeak", "ca"]}
    wide = asking(federation, centres | {"clusters": 50, "starts": 16})
    assert "/queries/0/clusters" in errors_of(await world.admin.post(path, json=wide))
    for queries in ([], None, "mean", {"query": "mean"}, 7):
        assert "/queries" in errors_of(await world.admin.post(path, json=asking(federation, queries=queries)))
    nul = asking(federation, {"query": "mean", "columns": ["age"], "name": "a\x07b"})
    assert "/queries/0/name" in errors_of(await world.admin.post(path, json=nul))
    nothing = {key: value for key, value in asking(federation).items() if key != "queries"}
    assert "/queries" in errors_of(await world.admin.post(path, json=nothing))
    assert "/kind" in errors_of(await world.admin.post(path, json=asking(federation, kind="guess")))
    from tests.services.coordinator.world import document

    training = document(federation, recipe={"name": "statistics"}, data={"dataset": "heart"})
    assert "kind: statistics" in errors_of(await world.admin.post(path, json=training))["/recipe/name"]


async def sites_that_differ(world: World, federation: str, agents: list[SiteAgent]) -> None:
    """A site without a column stays out; categories are put together; a type that differs is an error."""
    mine = told()
    for column in mine["datasets"][0]["columns"]:
        if column["name"] == "cp":
            column["categories"] = ["1", "2", "9"]
        if column["name"] == "age":
            column.update(type="category", categories=["young", "old"])
    mine["datasets"][0]["columns"] = [c for c in mine["datasets"][0]["columns"] if c["name"] != "thal"]
    assert (await agents[0].http.put("/v1/sites/self/profile", json=mine)).status_code == 200
    path = "/v1/jobs/validations"
    answer = (await world.admin.post(path, json=asking(federation, {"query": "contingency", "columns": ["cp"]}))).json()
    assert "/queries/0/columns/0" in [warning["path"] for warning in answer["warnings"]]
    answer = (
        await world.admin.post(path, json=asking(federation, {"query": "contingency", "columns": ["thal"]}))
    ).json()
    assert len(answer["sites"]) == 3
    found = errors_of(await world.admin.post(path, json=asking(federation, {"query": "mean", "columns": ["age"]})))
    assert "is a number at" in found["/queries/0/columns/0"]


async def test_a_round_that_fails_is_asked_again_and_the_answer_is_the_same(small_world: World) -> None:
    """The second round fails; its measures are asked again in another attempt, with what the first one opened."""
    world = small_world
    federation, agents = await hospitals(world)
    query = {"query": "correlation", "columns": ["age", "thalach"]}
    job = (await world.admin.post("/v1/jobs", json=asking(federation, query))).json()
    await world.conductor.advance(job["id"])
    await play_round(world, agents, job)
    round_id = (await world.get_job(job["id"]))["round_id"]
    asked = world.neighbours.rounds[round_id]["manifest"]["manifest"]["recipe"]["params"]
    world.neighbours.rounds[round_id].update(state="failed", reason="quorum")
    await world.conductor.drive(round_id)
    again = await play_round(world, agents, job)
    assert (again["recipe"]["params"], again["attempt"]) == (asked, 2)
    found = (await world.admin.get(f"/v1/jobs/{job['id']}/results")).json()["results"][0]
    complete = RECORDS[["age", "thalach"]].dropna()
    assert found["matrix"][0][1] == pytest.approx(np.corrcoef(complete.to_numpy().T)[0, 1])


async def test_sums_of_another_length_fail_the_round_and_not_the_coordinator(small_world: World) -> None:
    """The aggregator's word is checked; the job pauses after its attempts."""
    world = small_world
    federation, agents = await hospitals(world)
    world.neighbours.add_up = Neighbours().add_up
    job = (await world.admin.post("/v1/jobs", json=asking(federation, {"query": "mean", "columns": ["age"]}))).json()
    await world.conductor.advance(job["id"])
    for _ in range(MAX_ATTEMPTS_PER_STEP):
        await play_round(world, agents, job)
        await world.watch_for(125, agents)
        await world.conductor.advance(job["id"])
    done = await world.get_job(job["id"])
    assert (done["state"], done["reason"]) == ("paused", "sums-misfit")


async def test_counts_of_two_servers_are_bounded_for_a_proof(small_world: World) -> None:
    """Under twoserver a round of counts says how large each may be; a round with sums does not."""
    world = small_world
    federation, _ = await hospitals(world)
    encodings = []
    for query in ({"query": "contingency", "columns": ["cp"]}, {"query": "mean", "columns": ["age"]}):
        answer = await world.admin.post("/v1/jobs", json=asking(federation, query, engine="twoserver"))
        assert answer.status_code == 201, answer.text
        await world.conductor.advance(answer.json()["id"])
        round_id = (await world.get_job(answer.json()["id"]))["round_id"]
        manifest = world.neighbours.rounds[round_id]["manifest"]["manifest"]
        encodings.append((manifest["encoding"]["scale"], manifest["encoding"]["bound"]))
        bits = manifest["recipe"]["params"]["salt_bits"]
        assert 2**bits - 1 <= manifest["encoding"]["bound"]
    assert encodings[0] == (1.0, 2**16 - 1)
    assert encodings[1][0] == 2.0**24
