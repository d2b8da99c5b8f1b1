"""Job documents: every error at once, each with its path; lists, idempotency."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.services.coordinator.world import World, document, profile


def errors_of(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    assert answer.json()["type"] == "urn:undersong:problem:job-invalid"
    return {error["path"]: error["message"] for error in answer.json()["errors"]}


async def test_every_error_is_told_at_once_with_its_path(world: World) -> None:
    """Form, recipe, parameters, columns, cohort, engine, strategy, encoding: one answer."""
    federation = await world.federation()
    await world.sites(federation, 2)
    bad = document(
        federation,
        model={"name": "bad/name"},
        recipe={"name": "tabular", "params": {"epochs": 0, "model": "forest", "depth": 3}},
        data={"dataset": "heart", "features": ["age", "blood"], "label": "death"},
        rounds=0,
        strategy={"name": "fedadam", "params": {"eta": -1, "gamma": 2, "a/b": 3}},
        cohort={"min": 1, "max": 0},
        engine="magic",
        update={"modulus_bits": 20},
        evaluation={"every": 0, "early_stop": {"metric": "auc"}},
        extra=1,
    )
    answer = await world.admin.post("/v1/jobs/validations", json=bad)
    found = errors_of(answer)
    assert set(found) >= {
        "/model/name",
        "/recipe/params/epochs",
        "/recipe/params/model",
        "/recipe/params",
        "/data/features/1",
        "/data/label",
        "/rounds",
        "/strategy/params/eta",
        "/strategy/params/gamma",
        "/strategy/params/a~1b",
        "/cohort/max",
        "/engine",
        "/update/modulus_bits",
        "/evaluation/every",
        "/extra",
    }
    assert errors_of(await world.admin.post("/v1/jobs", json=bad)) == found


async def test_an_unknown_recipe_or_data_set_names_what_there_is(small_world: World) -> None:
    """The message helps: it lists what the sites have."""
    world = small_world
    federation = await world.federation()
    await world.sites(federation, 3)
    answer = await world.admin.post(
        "/v1/jobs/validations",
        json=document(federation, recipe={"name": "magic"}, data={"dataset": "lungs"}),
    )
    found = errors_of(answer)
    assert "tabular" in found["/recipe/name"]
    assert "heart" in found["/data/dataset"]


async def test_a_small_cohort_needs_an_express_wish(small_world: World) -> None:
    """Fewer than three only with allow_small; more than there are sites never."""
    world = small_world
    federation = await world.federation()
    await world.sites(federation, 2)
    path = "/v1/jobs/validations"
    assert "/cohort/min" in errors_of(await world.admin.post(path, json=document(federation)))
    small = document(federation, cohort={"min": 2})
    assert "allow_small" in errors_of(await world.admin.post(path, json=small))["/cohort/min"]
    small = document(federation, cohort={"min": 1, "allow_small": True})
    assert "sealed" in errors_of(await world.admin.post(path, json=small))["/engine"], (
        "the weak one is asked for by name"
    )
    allowed = await world.admin.post(path, json={**small, "engine": "sealed"})
    assert allowed.status_code == 200
    assert allowed.json()["features"] == ["age", "chol"]


async def test_an_encoding_without_headroom_is_refused(small_world: World) -> None:
    """Sixteen bits cannot carry four sites of weight 256."""
    world = small_world
    federation = await world.federation()
    await world.sites(federation)
    answer = await world.admin.post("/v1/jobs/validations", json=document(federation, update={"modulus_bits": 16}))
    assert "/update/modulus_bits" in errors_of(answer)


async def test_a_privacy_plan_is_judged_as_a_submission_and_starts_nothing(small_world: World) -> None:
    """The same checks, the same errors; what is promised is the same in plan, verdict and job."""
    world, path = small_world, "/v1/jobs/privacy-plan"
    federation = await world.federation()
    await world.sites(federation)
    noise = {"model": "distributed", "epsilon": 4, "delta": 1e-5}
    bare = document(federation, privacy=noise, update={"modulus_bits": 32})
    found = errors_of(await world.admin.post(path, json=bare))
    assert found.keys() >= {"/update/clip_norm", "/strategy/weighting"}
    assert errors_of(await world.admin.post("/v1/jobs", json=bare)) == found
    wanted = {**bare, "update": {"clip_norm": 1.0}, "strategy": {"weighting": "equal"}}
    plan = (await world.admin.post(path, json=wanted)).json()
    assert plan["terms"]["epsilon"] <= 4
    assert plan["terms"] == (await world.admin.post("/v1/jobs/validations", json=wanted)).json()["privacy"]
    assert (await world.admin.get("/v1/jobs")).json()["items"] == []
    assert plan["terms"] == (await world.admin.post("/v1/jobs", json=wanted)).json()["privacy"]


async def test_a_site_without_a_column_is_left_out_loudly(small_world: World) -> None:
    """The others go on; the answer warns; where too few are left, it is an error that names the site."""
    world = small_world
    federation = await world.federation()
    await world.sites(federation, 3)
    told = profile()
    told["datasets"][0]["columns"] = [c for c in told["datasets"][0]["columns"] if c["name"] != "chol"]
    await world.site(federation, "poor", told)
    wanted = document(federation, data={"dataset": "heart", "features": ["age", "chol"], "label": "disease"})
    answer = await world.admin.post("/v1/jobs/validations", json=wanted)
    assert len(answer.json()["sites"]) == 3
    assert "poor" in answer.json()["warnings"][0]["message"]
    refused = await world.admin.post("/v1/jobs/validations", json=wanted | {"cohort": {"min": 4}})
    assert "poor" in errors_of(refused)["/cohort/min"]


async def test_a_job_may_start_from_a_version_of_its_federation_only(small_world: World) -> None:
    """Unknown, foreign and deleted versions are errors at their path; a good one skips the first model."""
    world = small_world
    federation = await world.federation()
    await world.sites(federation)
    mine, foreign, gone = (f"ver_01m0dwh5mdaecm6yfk3d8y9c8{letter}" for letter in "abc")
    facts = {"content_digest": "11" * 32, "model_id": "mdl_x"}
    world.neighbours.versions = {
        mine: {"id": mine, "federation_id": federation, **facts},
        foreign: {"id": foreign, "federation_id": "fed_other", **facts},
        gone: {"id": gone, "federation_id": federation, "deleted_at": "2026-11-01T00:00:00Z", **facts},
    }
    for version in (foreign, gone, "ver_01m0dwh5mdaecm6yfk3d8y9c8d", "nonsense"):
        answer = await world.admin.post(
            "/v1/jobs/validations", json=document(federation, model={"name": "heart", "version_id": version})
        )
        assert "/model/version_id" in errors_of(answer)
    job = await world.job(federation, model={"name": "heart", "version_id": mine})
    assert job["version_id"] == mine


async def test_an_evaluation_names_a_version_and_nothing_of_training(small_world: World) -> None:
    """Every field that only training has is an error, and so are parts and folds that there are not."""
    world = small_world
    federation = await world.federation()
    told = profile()
    told["datasets"][0]["parts"] = ["train", "test"]
    told["recipes"][0]["params_schema"]["properties"] = {
        "epochs": {"type": "integer", "$comment": "about training"},
        "model": {"enum": ["logistic", "mlp"], "default": "logistic"},
    }
    for name in "abc":
        await world.site(federation, name, told)
    path = "/v1/jobs/validations"
    alone = {key: value for key, value in document(federation).items() if key != "rounds"} | {"kind": "evaluate"}
    wrong = {
        "rounds": 3,
        "update": {"clip_norm": 1.0},
        "strategy": {"name": "fedadam"},
        "data": {"dataset": "heart", "fold": {"number": 1, "of": 3}},
        "evaluation": {"every": 2, "part": "validation"},
    }
    found = errors_of(await world.admin.post(path, json=alone | wrong))
    assert set(found) == {
        "/rounds", "/update", "/strategy", "/data/fold", "/model/version_id", "/evaluation/every",
    }  # fmt: skip
    version = "ver_01m0dwh5mdaecm6yfk3d8y9c8a"
    world.neighbours.versions = {
        version: {"id": version, "federation_id": federation, "content_digest": "11" * 32, "model_id": "mdl_x"}
    }
    alone["model"] = {"name": "heart", "version_id": version}
    found = errors_of(await world.admin.post(path, json=alone | {"evaluation": {"part": "validation"}}))
    assert "has rows for validation" in found["/evaluation/part"]
    found = errors_of(await world.admin.post(path, json=alone | {"kind": "evalute"}))
    assert "evaluate" in found["/kind"]
    assert (await world.admin.post(path, json=alone | {"evaluation": {"part": "all"}})).status_code == 200
    mlp = {"name": "tabular", "params": {"model": "mlp", "epochs": 3}}
    job = (await world.admin.post("/v1/jobs", json=document(federation, recipe=mlp))).json()
    world.neighbours.versions[version]["lineage"] = {"job_id": job["id"]}
    alone["evaluation"] = {"part": "all"}
    found = errors_of(await world.admin.post(path, json=alone))
    assert found == {"/recipe/params/model": 'the version was trained with model: "mlp"; give the same'}
    same = {"name": "tabular", "params": {"model": "mlp"}}
    assert (await world.admin.post(path, json=alone | {"recipe": same})).status_code == 200, "epochs do not matter"
    found = errors_of(await world.admin.post(path, json=document(federation, evaluation={"part": "all"})))
    assert "rows that are trained on" in found["/evaluation/part"]
    for wrong in (0, 1, "0.5"):
        thresholds = errors_of(await world.admin.post(path, json=document(federation, evaluation={"threshold": wrong})))
        assert list(thresholds) == ["/evaluation/threshold"]
    noisy = {"model": "local", "noise_multiplier": 1.0}
    wrong = document(federation, evaluation={"sites": True}, privacy=noisy)
    assert "outside of what the noise" in errors_of(await world.admin.post(path, json=wrong))["/evaluation/sites"]
    for by, said in (("sox", "did you mean"), ("age", "groups are those of a category column")):
        wrong = document(federation, evaluation={"by": by})
        assert said in errors_of(await world.admin.post(path, json=wrong))["/evaluation/by"]
    fold = {"dataset": "heart", "fold": {"number": 3, "of": 2}}
    assert "/data/fold/number" in errors_of(await world.admin.post(path, json=document(federation, data=fold)))
    none = {key: value for key, value in document(federation).items() if key != "rounds"}
    assert errors_of(await world.admin.post(path, json=none)) == {"/rounds": "this field is required"}


@pytest.mark.parametrize("body", [[], "text", 3, None, {}])
async def test_any_other_document_is_refused(small_world: World, body: Any) -> None:
    """What is no job document gets a problem document."""
    answer = await small_world.admin.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


async def test_one_key_makes_one_job(world: World) -> None:
    """Twenty parallel submissions with one key: one job and one answer; with other content, 409."""
    federation = await world.federation()
    await world.sites(federation, 3)
    headers = {"idempotency-key": "submit-1"}

    async def submit(**changes: Any) -> httpx.Response:
        return await world.admin.post("/v1/jobs", json=document(federation, **changes), headers=headers)

    answers = await asyncio.gather(*(submit() for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = await submit(rounds=5)
    assert (other.status_code, other.json()["type"]) == (409, "urn:undersong:problem:idempotency-mismatch")
    assert len((await world.admin.get("/v1/jobs")).json()["items"]) == 1


async def test_lists_come_in_pages(world: World) -> None:
    """Seven jobs in pages of three, newest first, none twice; sites and federations too."""
    federation = await world.federation()
    await world.sites(federation, 3)
    made = [(await world.job(federation, name=f"job {at}"))["id"] for at in range(7)]
    for path, expected in (("/v1/jobs", made[::-1]), ("/v1/sites", None), ("/v1/federations", [federation])):
        seen: list[str] = []
        after: str | None = None
        while True:
            params = {"limit": "3"} | ({"after": after} if after else {})
            answer = (await world.admin.get(path, params=params)).json()
            assert len(answer["items"]) <= 3
            seen += [item["id"] for item in answer["items"]]
            after = answer["next"]
            if after is None:
                break
        assert len(seen) == len(set(seen))
        assert seen == (expected or sorted(seen))
    assert (await world.admin.get("/v1/jobs?limit=0")).status_code == 422
    assert len((await world.admin.get("/v1/jobs?state=paused")).json()["items"]) == 0


async def test_the_list_of_jobs_is_filtered_and_sorted(world: World) -> None:
    """By a part of the name, owner, tag, kind and state; sorted pages hold each job once, and wildcards are letters."""
    federation = await world.federation()
    await world.sites(federation, 3)
    ada = await world.person("Ada", ("scientist", federation))
    for name, tags in (("beta", ["a_b"]), ("100% Alpha", ["axb", "night"]), ("beta", []), ("gamma", ["a_b.c"])):
        assert (await ada.post("/v1/jobs", json=document(federation, name=name, tags=tags))).status_code == 201
    stopped = await world.job(federation, name="alpha too")
    await world.admin.post(f"/v1/jobs/{stopped['id']}/pause")

    async def names(**query: str) -> list[str]:
        answer = await ada.get("/v1/jobs", params=query)
        assert answer.status_code == 200, answer.text
        return [job["name"] for job in answer.json()["items"]]

    assert await names(name="ALPHA") == ["alpha too", "100% Alpha"]
    assert await names(name="0%") == ["100% Alpha"]
    assert await names(name="_") == []
    assert await names(tag="a_b") == ["beta"]
    assert await names(tag="night", state="running", kind="train") == ["100% Alpha"]
    assert await names(tag='a_b"') == []
    assert await names(tag="A_B") == []
    assert await names(owner="Ada", sort="name") == ["100% Alpha", "beta", "beta", "gamma"]
    assert await names(state="paused") == ["alpha too"]
    assert await names(kind="statistics") == []
    for sort in ("created", "-created", "name", "-name", "state", "-state"):
        seen: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = (await ada.get("/v1/jobs", params={"sort": sort, "limit": "2", **after})).json()
            seen += [job["id"] for job in page["items"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert len(seen) == len(set(seen)) == 5, sort
    lungs = await world.federation("lungs")
    eve = await world.person("Eve", ("scientist", lungs))
    await world.sites(lungs, 3)
    assert (await eve.post("/v1/jobs", json=document(lungs, name="zebra"))).status_code == 201
    for sort in ("name", "-name"):  # whether "zebra" comes before "beta" is not for Eve to know
        page = (await eve.get("/v1/jobs", params={"sort": sort, "after": stopped["id"]})).json()
        assert page == {"items": [], "next": None}
    assert (await ada.get("/v1/jobs?sort=reason")).status_code == 422
    wrong = await ada.post("/v1/jobs", json=document(federation, tags=["no spaces", "x"]))
    assert "/tags/0" in errors_of(wrong)


async def test_the_description_of_the_api_names_the_job_document(small_world: World) -> None:
    """OpenAPI: the body of POST /v1/jobs is a JobSpec with its parts, and refusals are described."""
    document_ = (await small_world.client().get("/openapi.json")).json()
    schemas = document_["components"]["schemas"]
    assert "rounds" in str(schemas["JobDocument"]) or "JobSpec" in schemas
    operation = document_["paths"]["/v1/jobs"]["post"]
    assert {"201", "401", "403", "409", "422", "503"} <= set(operation["responses"])
    assert "#/$defs" not in str(document_)
