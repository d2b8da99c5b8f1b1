"""A job again, with changes: the same checks, the same rights, and its origin in its first event."""

from typing import Any

import pytest

from tests.services.coordinator.test_jobs import errors_of
from tests.services.coordinator.world import World, document
from undersong.services.coordinator.domain.spec import document_of, spec_of

QUERIES = [{"query": "mean", "columns": ["age"]}, {"query": "histogram", "column": "age", "edges": [1, 2, 3]}]
STATISTICS = {"kind": "statistics", "name": "figures", "federation_id": "fed_1", "data": {"dataset": "heart"}}


@pytest.mark.parametrize(
    "changes",
    [{}, {"privacy": {"model": "server", "epsilon": 2}, "update": {"clip_norm": 1.0}},
     {"evaluation": {"every": 1, "early_stop": {"metric": "auc"}}, "reason": "a try"},
     {"recipe": {"name": "tabular", "params": {"a": {}, "b": None, "c": [{}]}}}],
)  # fmt: skip
def test_the_shortest_document_says_the_same(changes: dict[str, Any]) -> None:
    stored = spec_of(spec_of(document("fed_1", **changes)).model_dump(mode="json"))
    short = document_of(stored)
    again = spec_of(short)
    assert again.model_dump(exclude={"recipe"}) == stored.model_dump(exclude={"recipe"})
    assert "cohort" not in short


def test_the_shortest_statistics_document_keeps_its_queries() -> None:
    stored = spec_of(spec_of({**STATISTICS, "queries": QUERIES}).model_dump(mode="json"))
    assert spec_of(document_of(stored)) == stored


async def test_a_job_is_cloned_with_a_merge_patch(world: World) -> None:
    """What is null goes back to the default; the first event names the origin."""
    federation = await world.federation()
    await world.sites(federation)
    job = await world.job(federation, evaluation={"every": 2}, strategy={"name": "fedadam", "params": {"eta": 0.1}})
    path = f"/v1/jobs/{job['id']}/clones"
    changes = {"rounds": 5, "strategy": None, "recipe": {"params": {"model": "logistic"}}}
    answer = await world.admin.post(path, json={"changes": changes})
    assert answer.status_code == 201, answer.text
    spec = answer.json()["spec"]
    assert (spec["rounds"], spec["strategy"]["name"], spec["evaluation"]["every"]) == (5, "fedavg", 2)
    assert spec["recipe"]["params"] == {"epochs": 1, "model": "logistic"}
    events = await world.use_cases.jobs.more_events(answer.json()["id"], 0, 1)
    assert events[0].data["cloned_from"] == job["id"]
    again = await world.admin.post(path, json={"changes": {}})
    assert again.json()["spec"] == job["spec"]


async def test_a_clone_is_judged_and_guarded_as_a_submission(small_world: World) -> None:
    world = small_world
    federation = await world.federation()
    await world.sites(federation)
    job = await world.job(federation)
    path = f"/v1/jobs/{job['id']}/clones"
    bad = await world.admin.post(path, json={"changes": {"rounds": -1, "recipe": {"name": "magic"}, "data": None}})
    assert errors_of(bad).keys() >= {"/rounds", "/recipe/name", "/data"}
    assert (await world.admin.post(path, json={"changes": {}, "change": {}})).status_code == 422
    reader = await world.person("rita", ("auditor", federation))
    assert (await reader.post(path, json={"changes": {}})).status_code == 403
    stranger = await world.person("eve", ("scientist", await world.federation("lungs")))
    assert (await stranger.post(path, json={"changes": {}})).status_code == 404
    assert len((await world.admin.get("/v1/jobs")).json()["items"]) == 1
