"""A job's columns and label: what the sites' declarations allow, and how they are compared."""

from typing import Any

import httpx
import pytest

from tests.services.coordinator.world import SiteAgent, World, document, profile


def errors_of(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {error["path"]: error["message"] for error in answer.json()["errors"]}


def labelled(**label: Any) -> dict[str, Any]:
    """A profile whose tabular recipe has a task and classes, and whose label is this column."""
    told = profile()
    told["recipes"][0]["params_schema"]["properties"] |= {"task": {"type": "string"}, "classes": {"type": "integer"}}
    told["datasets"][0]["columns"][-1] = {"name": "disease", **label}
    return told


@pytest.mark.parametrize(
    ("label", "params", "says"),
    [
        ({"type": "category", "categories": list("abc")}, {}, "has 3 categories, and this job's model 2"),
        ({"type": "category", "categories": list("abc")}, {"task": "multiclass", "classes": 2}, "classes: 3"),
        ({"type": "category", "categories": list("abc")}, {"task": "regression"}, "needs a number"),
        ({"type": "image"}, {}, "is of type image"),
        ({"type": "category", "categories": list("abc")}, {"task": "survival"}, "task survival needs a number"),
        ({"type": "number"}, {"task": "ranking"}, "no evaluation"),
        ({"type": "number"}, {"task": "multiclass"}, "how many classes"),
        ({"type": "number"}, {"task": "multiclass", "classes": 1}, "2 to 1000"),
        ({"type": "number", "numbers": "real"}, {}, "set task: regression"),
        ({"type": "number", "numbers": "whole"}, {}, "task: multiclass and classes"),
        ({"type": "number", "numbers": "real"}, {"task": "multiclass", "classes": 9}, "whole numbers from 0 to 8"),
    ],
)
async def test_a_label_that_does_not_fit_the_task_is_refused(
    small_world: World, label: dict[str, Any], params: dict[str, Any], says: str
) -> None:
    federation = await small_world.federation()
    for at in range(3):
        await small_world.site(federation, f"site-{at}", labelled(**label))
    job = document(federation, recipe={"name": "tabular", "params": params})
    found = errors_of(await small_world.admin.post("/v1/jobs/validations", json=job))
    assert says in found["/recipe/params"]


@pytest.mark.parametrize(
    ("kinds", "params", "refused"),
    [
        (["binary"] * 3, {}, None),
        ([None, "binary", None], {}, None),
        (["binary", "binary", "real"], {}, "at site-2 the label 'disease' holds other numbers than 0 and 1"),
        (["whole", "binary", "real"], {}, "at site-0, site-2 the label"),
        (["whole"] * 3, {"task": "multiclass", "classes": 5}, None),
        (["real", "whole", "binary"], {"task": "regression"}, None),
    ],
)
async def test_a_label_of_numbers_must_hold_the_classes_of_the_task_at_every_site(
    small_world: World, kinds: list[str | None], params: dict[str, Any], refused: str | None
) -> None:
    federation = await small_world.federation()
    for at, kind in enumerate(kinds):
        await small_world.site(federation, f"site-{at}", labelled(type="number", **({"numbers": kind} if kind else {})))
    job = document(federation, recipe={"name": "tabular", "params": params})
    answer = await small_world.admin.post("/v1/jobs/validations", json=job)
    if refused is None:
        assert answer.status_code == 200, answer.text
    else:
        assert refused in errors_of(answer)["/recipe/params"]


async def test_a_recipe_that_leaves_no_choice_of_task_may_take_any_label(small_world: World) -> None:
    """It is told in a warning: an own recipe can read classes out of any numbers."""
    federation = await small_world.federation()
    for at in range(3):
        made = labelled(type="number", numbers="real")
        for name in ("task", "classes"):
            del made["recipes"][0]["params_schema"]["properties"][name]
        await small_world.site(federation, f"site-{at}", made)
    answer = (await small_world.admin.post("/v1/jobs/validations", json=document(federation))).json()
    assert any("is for task binary" in warning["message"] for warning in answer["warnings"])


def told(*columns: dict[str, Any], label: str | None = "disease", **dataset: Any) -> dict[str, Any]:
    """A profile whose data set has these columns."""
    made = profile()
    made["datasets"] = [{**made["datasets"][0], "columns": list(columns), "label": label, **dataset}]
    made["recipes"] = [{**made["recipes"][0], "inputs": ["number", "category"]}]
    return made


AGE: dict[str, Any] = {"name": "age", "type": "number"}
SEX: dict[str, Any] = {"name": "sex", "type": "category", "categories": ["f", "m"]}
DISEASE: dict[str, Any] = {"name": "disease", "type": "category", "categories": ["no", "yes"]}
DAYS: dict[str, Any] = {"name": "days", "type": "number"}


@pytest.mark.parametrize(
    ("event", "features", "params", "says"),
    [
        ({"type": "number", "numbers": "binary"}, ["age", "dead"], {"event": "dead"}, None),
        ({"type": "category", "categories": ["alive", "dead"]}, ["age", "dead"], {"event": "dead"}, None),
        ({"type": "number"}, ["age", "dead"], {}, "needs the column 'event'"),
        ({"type": "number"}, ["age", "dead"], {"event": "deed"}, "'dead'"),
        ({"type": "number"}, ["age"], {"event": "dead"}, "among the features"),
        ({"type": "number", "numbers": "whole"}, ["age", "dead"], {"event": "dead"}, "at site-0, site-1, site-2"),
        ({"type": "category", "categories": list("abc")}, ["age", "dead"], {"event": "dead"}, "two categories"),
    ],
)
async def test_a_job_with_task_survival_reads_a_column_that_says_whether_the_event_came(
    small_world: World, event: dict[str, Any], features: list[str], params: dict[str, Any], says: str | None
) -> None:
    federation = await small_world.federation()
    for at in range(3):
        site = told(AGE, DAYS, {"name": "dead", **event}, label="days")
        site["recipes"][0]["params_schema"]["properties"] |= {
            "task": {"type": "string"},
            "event": {"type": "string", "default": "event"},
        }
        await small_world.site(federation, f"site-{at}", site)
    recipe = {"name": "tabular", "params": {"task": "survival", **params}}
    body = document(federation, recipe=recipe, data={"dataset": "heart", "features": features, "label": "days"})
    answer = await small_world.admin.post("/v1/jobs/validations", json=body)
    if says is None:
        assert answer.status_code == 200, answer.text
    else:
        assert says in errors_of(answer)["/recipe/params/event"]


@pytest.mark.parametrize("listed", [None, ["nein", "ja"]])
async def test_the_dry_run_says_which_category_is_the_event_unless_the_job_does(
    small_world: World, listed: list[str] | None
) -> None:
    """Of ja and nein, in the alphabet's order, nein would be the event: a model learned the opposite without a word."""
    federation = await small_world.federation()
    for at in range(3):
        site = told(AGE, DAYS, {"name": "dead", "type": "category", "categories": ["ja", "nein"]}, label="days")
        site["recipes"][0]["params_schema"]["properties"] |= {
            "task": {"type": "string"},
            "event": {"type": "string", "default": "dead"},
        }
        await small_world.site(federation, f"site-{at}", site)
    data = {"dataset": "heart", "label": "days"} | ({} if listed is None else {"categories": {"dead": listed}})
    body = document(federation, recipe={"name": "tabular", "params": {"task": "survival"}}, data=data)
    answer = await small_world.admin.post("/v1/jobs/validations", json=body)
    assert answer.status_code == 200, answer.text
    found = [one["message"] for one in answer.json()["warnings"] if one["path"] == "/recipe/params/event"]
    assert len(found) == (listed is None)
    assert all("'nein' in 'dead' is taken for the event" in one and "data.categories.dead" in one for one in found)


async def test_the_dry_run_says_which_columns_are_used_and_why_others_are_not(small_world: World) -> None:
    federation = await small_world.federation()
    note = {"name": "note", "type": "text"}
    for at in range(3):
        extra = [{"name": "ward", "type": "number"}] if at else []
        await small_world.site(federation, f"site-{at}", told(AGE, SEX, DISEASE, note, *extra, {**AGE, "name": "key"}))
    body = document(federation, data={"dataset": "heart", "exclude": ["key"]})
    answer = (await small_world.admin.post("/v1/jobs/validations", json=body)).json()
    assert answer["features"] == ["age", "sex"]
    assert answer["label"] == "disease"
    unused = {item["name"]: item["reason"] for item in answer["unused"]}
    assert unused["key"] == "excluded by the job"
    assert unused["ward"] == "missing at site-0"
    assert "text" in unused["note"]
    job = await small_world.job(federation, data={"dataset": "heart", "exclude": ["key"]})
    assert job["unused"] == answer["unused"]
    assert [column["name"] for column in job["columns"]] == ["age", "sex", "disease"]


@pytest.mark.parametrize(("rows", "warned"), [((30, 30, 39), True), ((30, 30, 40), False), ((1, None, 1), False)])
async def test_the_dry_run_warns_of_too_few_rows_for_an_auc(
    small_world: World, rows: tuple[int | None, ...], warned: bool
) -> None:
    federation = await small_world.federation()
    for at, count in enumerate(rows):
        await small_world.site(federation, f"site-{at}", told(AGE, DISEASE, rows=count))
    for evaluation, expected in (({"every": 1}, warned), ({"every": 0}, False)):
        body = document(federation, evaluation=evaluation)
        found = (await small_world.admin.post("/v1/jobs/validations", json=body)).json()["warnings"]
        assert [each["path"] for each in found] == ["/evaluation"] * expected


@pytest.mark.parametrize(("classes", "warned"), [(3, False), (10, True)])
async def test_the_dry_run_warns_of_classes_that_the_label_does_not_have(
    small_world: World, classes: int, warned: bool
) -> None:
    federation = await small_world.federation()
    for at in range(3):
        await small_world.site(federation, f"site-{at}", labelled(type="category", categories=list("abc")))
    recipe = {"name": "tabular", "params": {"task": "multiclass", "classes": classes}}
    body = document(federation, recipe=recipe, evaluation={"every": 0})
    found = (await small_world.admin.post("/v1/jobs/validations", json=body)).json()["warnings"]
    assert ["set classes: 3" in each["message"] for each in found] == [True] * warned


async def test_labels_in_another_order_get_one_order_in_the_manifest(small_world: World) -> None:
    world = small_world
    federation = await world.federation()
    turned = {**DISEASE, "categories": ["yes", "no"]}
    agents = [await world.site(federation, f"site-{at}", told(AGE, DISEASE if at else turned)) for at in range(3)]
    answer = await world.admin.post("/v1/jobs/validations", json=document(federation))
    assert "site-0" in answer.json()["warnings"][0]["message"]
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    round_id = (await world.get_job(job["id"]))["round_id"]
    manifest = world.neighbours.rounds[round_id]["manifest"]["manifest"]
    assert manifest["data"]["columns"][-1]["categories"] == ["no", "yes"]
    assert len(manifest["cohort"]) == len(agents)


@pytest.mark.parametrize(
    ("changed", "path", "words"),
    [
        ({**DISEASE, "categories": ["no", "yes", "unsure"]}, "/data/label", ["site-2", "'unsure'", "datasets.yaml"]),
        ({"name": "disease", "type": "number"}, "/data/label", ["site-2", "a number", "datasets.yaml"]),
        ({"name": "age", "type": "category", "categories": ["old"]}, "/data/features", ["site-2", "'age'", "exclude"]),
        ({**SEX, "categories": ["F", "M"]}, "/data/features", ["site-2", "'F', 'M'", "exclude"]),
    ],
)
async def test_schemas_that_cannot_be_matched_are_refused(
    small_world: World, changed: dict[str, Any], path: str, words: list[str]
) -> None:
    """The refusal names the site, the column and what to do; before and after, no job."""
    federation = await small_world.federation()
    for at in range(3):
        columns = [changed if at == 2 and changed["name"] == c["name"] else c for c in (AGE, SEX, DISEASE)]
        await small_world.site(federation, f"site-{at}", told(*columns))
    found = errors_of(await small_world.admin.post("/v1/jobs", json=document(federation)))
    assert all(word in found[path] for word in words), found
    assert (await small_world.admin.get("/v1/jobs")).json()["items"] == []


async def test_the_categories_of_all_sites_are_put_together_where_the_job_says_so(small_world: World) -> None:
    world = small_world
    federation = await world.federation()
    for at, texts in enumerate((["f", "m"], ["m", "x"], ["x", "f", "u"])):
        await world.site(federation, f"site-{at}", told(AGE, {**SEX, "categories": texts}, DISEASE))
    data = {"dataset": "heart", "label": "disease"}
    found = errors_of(await world.admin.post("/v1/jobs/validations", json=document(federation, data=data)))
    assert "`union`" in found["/data/features"]
    job = await world.job(federation, data={**data, "categories": {"sex": "union"}})
    await world.conductor.advance(job["id"])
    round_id = (await world.get_job(job["id"]))["round_id"]
    read = world.neighbours.rounds[round_id]["manifest"]["manifest"]["data"]
    assert {each["name"]: each.get("categories") for each in read["columns"]}["sex"] == ["f", "m", "x", "u"]
    assert read["listed"] == ["sex"]
    for name, said in (("age", "only categories"), ("sxe", "did you mean 'sex'")):
        body = document(federation, data={**data, "categories": {name: "union"}})
        found = errors_of(await world.admin.post("/v1/jobs/validations", json=body))
        assert said in found[f"/data/categories/{name}"]


async def test_labels_that_sites_declare_differently_are_refused(small_world: World) -> None:
    federation = await small_world.federation()
    for at in range(3):
        await small_world.site(federation, f"site-{at}", told(AGE, SEX, DISEASE, label="sex" if at else "disease"))
    body = document(federation, data={"dataset": "heart"})
    found = errors_of(await small_world.admin.post("/v1/jobs/validations", json=body))
    assert "data.label" in found["/data/label"]


async def test_a_site_whose_schema_changes_takes_part_no_longer(small_world: World) -> None:
    """Joining later, or changing in the middle: only sites that agree with the job are asked."""
    world = small_world
    federation = await world.federation()
    agents = [await world.site(federation, f"site-{at}", told(AGE, DISEASE)) for at in range(4)]
    job = await world.job(federation)
    late = await world.site(federation, "late", told(AGE, {**DISEASE, "categories": ["yes", "no", "unsure"]}))
    fits = await world.site(federation, "fits", told(AGE, {**DISEASE, "categories": ["yes", "no"]}))
    changed = told({"name": "age", "type": "category", "categories": ["old"]}, DISEASE)
    assert (await agents[0].http.put("/v1/sites/self/profile", json=changed)).status_code == 200
    for agent in (*agents, late, fits):
        await agent.poll()
    await world.flush()
    await world.conductor.advance(job["id"])
    round_id = (await world.get_job(job["id"]))["round_id"]
    manifest = world.neighbours.rounds[round_id]["manifest"]["manifest"]
    assert manifest["cohort"] == sorted([*(agent.id for agent in agents[1:]), fits.id])


async def test_an_early_stop_watches_a_metric_that_the_task_has(small_world: World) -> None:
    federation = await small_world.federation()
    await small_world.sites(federation, 3)
    body = document(federation, evaluation={"every": 1, "early_stop": {"metric": "AUC_ROC", "patience": 1}})
    found = errors_of(await small_world.admin.post("/v1/jobs", json=body))
    assert "did you mean 'auc'" in found["/evaluation/early_stop/metric"]
    body["evaluation"]["early_stop"]["metric"] = "mae"
    found = errors_of(await small_world.admin.post("/v1/jobs", json=body))
    assert "accuracy" in found["/evaluation/early_stop/metric"]


async def test_the_sites_declarations_are_compared(small_world: World) -> None:
    """What `undersong data compare` and the dashboard show: every column, and what to do; no value and no count."""
    world = small_world
    federation = await world.federation()
    turned = {**DISEASE, "categories": ["yes", "no"]}
    unlike = {"name": "age", "type": "category", "categories": ["old"]}
    for at, columns in enumerate([(AGE, SEX, DISEASE), (AGE, SEX, turned), (unlike, DISEASE)]):
        await world.site(federation, f"site-{at}", told(*columns))
    await world.site(federation, "typo", {**told(AGE), "datasets": [{**told(AGE)["datasets"][0], "name": "haert"}]})
    await world.site(federation, "bare", {**told(AGE), "datasets": []})
    await world.admin.post(f"/v1/federations/{federation}/sites", json={"name": "silent", "owner": "o"})
    path = f"/v1/federations/{federation}/comparison"
    found = (await world.admin.get(path, params={"dataset": "heart"})).json()
    assert found["matches"] is False
    columns = {column["name"]: column for column in found["columns"]}
    assert {name: column["state"] for name, column in columns.items()} == {
        "age": "different",
        "sex": "partial",
        "disease": "matched",
    }
    assert columns["disease"]["agreed"]["categories"] == ["no", "yes"]
    assert columns["sex"]["missing"] == ["site-2"]
    assert "site-2" in columns["age"]["faults"][0]
    assert "rows" not in str(found)
    assert found["sites"] == ["site-0", "site-1", "site-2"]
    assert "did you mean 'haert'" in found["absent"].pop("typo")
    assert found["absent"] == {
        "bare": "its agent reports no data set", "silent": "its agent has not reported yet"
    }  # fmt: skip
    unknown = await world.admin.get(path, params={"dataset": "hart"})
    assert unknown.status_code == 404
    assert "or 'heart'?" in unknown.json()["detail"]


async def test_what_sites_cannot_read_is_told_where_a_job_is_judged(small_world: World) -> None:
    """A site whose policy is broken is named in the dry run, takes part in no round, and again once it is corrected."""
    world, body = small_world, profile
    federation = await world.federation()
    agents = await world.sites(federation)
    job = await world.job(federation)

    async def say(agent: SiteAgent, **told: Any) -> None:
        assert (await agent.http.put("/v1/sites/self/profile", json=body(**told))).status_code == 200

    await say(agents[0], recipes=[], datasets=[], faults=[{"code": "policy-unreadable"}])
    answer = (await world.admin.post("/v1/jobs/validations", json=document(federation))).json()
    said = {warning["message"] for warning in answer["warnings"]}
    assert "site site-0 cannot take work: its policy cannot be read" in said
    assert agents[0].id not in answer["sites"]
    await world.conductor.advance(job["id"])
    (planned,) = (await world.admin.get(f"/v1/jobs/{job['id']}/rounds")).json()["items"]
    assert sorted(planned["cohort"]) == sorted(agent.id for agent in agents[1:])
    for agent in agents[1:]:
        await say(agent, datasets=[], faults=[{"code": "dataset-unreadable", "dataset": "heart"}])
    refused = (await world.admin.post("/v1/jobs/validations", json=document(federation))).json()
    (told,) = [error["message"] for error in refused["errors"] if error["path"] == "/data/dataset"]
    assert "site site-0 cannot take work: its policy cannot be read" in told
    assert "site site-1 cannot take work: its data set 'heart' cannot be read" in told
    await say(agents[0])
    assert (await world.admin.get(f"/v1/sites/{agents[0].id}")).json()["profile"]["faults"] == []
