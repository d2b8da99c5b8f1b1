"""Every name in a job document that refers to something: one wrong character is refused, with what was meant."""

import time
import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.near_misses import exchanged, misspelt, names_in
from undersong.recipes.catalogue import load_recipe
from undersong.services.coordinator.domain.findings import JobInvalid, kind_of
from undersong.services.coordinator.domain.manifests import train_encoding
from undersong.services.coordinator.domain.sites import TOLD, SiteFacts
from undersong.services.coordinator.domain.statistics import judge_statistics
from undersong.services.coordinator.domain.validation import ValidJob, World, absence, judge
from undersong.services.coordinator.views.members import comparison_view
from undersong.shared.ids import SiteId
from undersong.shared.learning.strategies import strategy_named
from undersong.shared.secagg.engines import ENGINES
from undersong.shared.wire.manifest import DataRef
from undersong.shared.wire.profiles import Column, DatasetSchema, Hardware, SiteProfile

FEDERATION = "fed_01m0dwh5mdaecm6yfk3d8y9c8v"
COLUMNS = (
    Column(name="age", type="number"),
    Column(name="pressure", type="number"),
    Column(name="note", type="text"),
    Column(name="sex", type="category", categories=("female", "male")),
    Column(name="disease", type="category", categories=("absent", "present")),
)
DATASETS = (DatasetSchema(name="heart", kind="csv", columns=COLUMNS, label="disease", rows=300),)
PROFILE = SiteProfile(
    agent_version="1",
    protocol=1,
    recipes=(load_recipe("tabular").spec, load_recipe("statistics").spec),
    datasets=DATASETS,
    hardware=Hardware(cpus=1, memory_bytes=1),
)
WORLD = World(
    federation_known=True,
    sites=[SiteFacts(SiteId(f"site_{at}"), f"site-{at}", True, PROFILE) for at in range(3)],
    engines=ENGINES,
    check_strategy=lambda name, params: strategy_named(name).settings(params),
    check_encoding=train_encoding,
)
TRAIN: dict[str, Any] = {
    "kind": "train",
    "name": "job",
    "federation_id": FEDERATION,
    "model": {"name": "heart"},
    "recipe": {"name": "tabular", "params": {"model": "logistic", "epochs": 2, "task": "binary", "learning_rate": 0.1}},
    "data": {
        "dataset": "heart",
        "features": ["age", "sex"],
        "label": "disease",
        "exclude": ["pressure"],
        "categories": {"sex": ["female", "male"]},
    },
    "rounds": 2,
    "strategy": {"name": "fedadam", "params": {"eta": 0.1, "beta_1": 0.9}, "weighting": "equal"},
    "cohort": {"min": 3, "fraction": 1.0},
    "engine": "pairwise",
    "update": {"clip_norm": 1.0},
    "evaluation": {"every": 1, "early_stop": {"metric": "auc", "mode": "max", "patience": 2}},
    "deadlines": {"round_s": 60},
}
ASK: dict[str, Any] = {
    "kind": "statistics",
    "name": "figures",
    "federation_id": FEDERATION,
    "data": {"dataset": "heart", "categories": {"sex": ["female", "male"]}},
    "queries": [
        {"query": "mean", "columns": ["age", "pressure"]},
        {"query": "contingency", "columns": ["sex", "disease"]},
        {"query": "regression", "target": "age", "features": ["pressure", "sex"]},
        {"query": "histogram", "column": "age", "bins": 4},
    ],
    "engine": "pairwise",
    "cohort": {"min": 3},
}
FREE = [("name",), ("federation_id",), ("model", "name")]


def verdict(document: dict[str, Any]) -> ValidJob:
    return (judge_statistics if kind_of(document) == "statistics" else judge)(document, WORLD)


@pytest.mark.parametrize("document", [TRAIN, ASK], ids=["train", "statistics"])
def test_the_documents_are_valid(document: dict[str, Any]) -> None:
    assert verdict(document).resolved.eligible


@given(st.sampled_from([TRAIN, ASK]), st.data())
@settings(max_examples=examples(300), deadline=None)
def test_one_wrong_character_is_refused_with_the_name_that_was_meant(document: dict[str, Any], data: Any) -> None:
    place, name, key = data.draw(st.sampled_from(list(names_in(document, FREE))))
    wrong = data.draw(misspelt(name))
    assume(wrong.strip() == wrong and wrong)
    with pytest.raises(JobInvalid) as refused:
        verdict(exchanged(document, place, name, wrong, key=key))
    said = [error.message for error in refused.value.errors]
    assert any(repr(name) in message for message in said), (place, wrong, said)


@pytest.mark.parametrize(
    ("changes", "place"),
    [({"recipe": {"name": "readmit"}}, "/recipe/name"), ({"data": {"dataset": "visits"}}, "/data/dataset")],
)
def test_what_no_site_has_may_be_there_and_not_allowed(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(JobInvalid) as refused:
        verdict(TRAIN | changes)
    assert {error.path: error.message for error in refused.value.errors}[place].endswith(TOLD)


def test_a_job_that_goes_on_from_other_columns_is_told_what_they_were() -> None:
    was = (COLUMNS[0], Column(name="disease", type="number"))
    world = replace(WORLD, trained=DataRef(dataset="heart", features=("age",), label="disease", columns=was))
    with pytest.raises(JobInvalid) as refused:
        judge(TRAIN | {"data": {"dataset": "heart"}}, world)
    found = {error.path: error.message for error in refused.value.errors}
    assert "it was a column of type number and is a category (absent, present)" in found["/data/label"]
    assert "under data.exclude" in found["/data/features"]


ALIKE: dict[str, Any] = {"größe": "größe", "Köln": "Köln", "klinik": "klinik\u200b", "ja": "jа"}
"""Texts and their twins: composed otherwise, with something invisible, with a letter of another script."""


def with_twins(*twins: str) -> World:
    """Four sites, of which the last has the twins of these texts."""

    def profile(turned: dict[str, Any]) -> SiteProfile:
        said = {text: turned.get(text, text) for text in ALIKE}
        columns = (
            Column(name="age", type="number"),
            Column(name=said["größe"], type="number"),
            Column(name="stadt", type="category", categories=("Bonn", said["Köln"])),
            Column(name="krank", type="category", categories=(said["ja"], "nein")),
        )
        data = DatasetSchema(name=said["klinik"], kind="csv", columns=columns, label="krank", rows=300)
        return PROFILE.model_copy(update={"datasets": (data,)})

    odd = profile({text: unicodedata.normalize("NFD", ALIKE[text]) for text in twins})
    sites = [SiteFacts(SiteId(f"site_{at}"), f"site-{at}", True, odd if at == 3 else profile({})) for at in range(4)]
    return replace(WORLD, sites=sites)


def job_over(world: World, **data: Any) -> ValidJob:
    return judge(TRAIN | {"data": {"dataset": "klinik", **data}}, world)


@pytest.mark.parametrize(
    ("twin", "points"), [("Köln", "U+0308 (COMBINING DIAERESIS)"), ("ja", "U+0430 (CYRILLIC SMALL LETTER A)")]
)
def test_categories_that_look_the_same_are_told_apart(twin: str, points: str) -> None:
    with pytest.raises(JobInvalid) as refused:
        job_over(with_twins(twin))
    (fault,) = refused.value.errors
    assert "site-3" in fault.message
    assert points in fault.message


def test_a_column_that_looks_the_same_at_another_site_is_told_apart() -> None:
    world = with_twins("größe")
    unused = {item.name: item.reason for item in job_over(world).resolved.unused}
    assert "U+00F6 (LATIN SMALL LETTER O WITH DIAERESIS) where that has U+006F" in unused["größe"]
    named = job_over(world, features=["age", "größe"])
    (warned,) = [warning.message for warning in named.warnings if warning.path == "/data/features/1"]
    for said in (warned, absence(world.sites[3], named.spec, named.resolved)):
        assert "U+0308 (COMBINING DIAERESIS)" in str(said)
    assert "missing at site-3" in warned


@pytest.mark.parametrize(
    "data",
    [
        {"dataset": "klinik\u200b"},
        {"features": [unicodedata.normalize("NFD", "größe")]},
        {"exclude": [unicodedata.normalize("NFD", "größe")]},
        {"label": "krаnk"},
        {"categories": {"stаdt": ["Bonn", "Köln"]}},
    ],
)
def test_a_job_that_names_what_only_looks_like_a_name_is_refused_with_the_code_points(data: dict[str, Any]) -> None:
    with pytest.raises(JobInvalid) as refused:
        job_over(with_twins(), **data)
    assert any(" but has U+" in error.message for error in refused.value.errors), refused.value.errors


def test_many_columns_that_differ_are_compared_at_once() -> None:
    """One site's profile must not keep the coordinator busy: names of other scripts cost more than ASCII ones."""

    def site(number: int) -> SiteFacts:
        columns = tuple(Column(name=f"{number} {place} " + "\u00e9" * 60, type="number") for place in range(1500))
        hardware = Hardware(cpus=1, memory_bytes=0)
        schema = DatasetSchema(name="heart", kind="csv", columns=columns, rows=3)
        profile = SiteProfile(
            agent_version="1", protocol=1, hardware=hardware, runner="process", datasets=(schema,), recipes=()
        )
        return SiteFacts(id=SiteId(f"site_{number}"), name=f"site {number}", active=True, profile=profile)

    begun = time.process_time()
    found = comparison_view("fed_1", "heart", [site(0), site(1)])
    assert len(found.columns) == 3000
    assert time.process_time() - begun < 30, "three minutes, where each name is compared with each"
