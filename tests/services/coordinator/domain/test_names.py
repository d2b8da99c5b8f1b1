"""Every name in a job document that refers to something: one wrong character is refused, with what was meant."""

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recipes.catalogue import load_recipe
from services.coordinator.domain.findings import JobInvalid, kind_of
from services.coordinator.domain.manifests import train_encoding
from services.coordinator.domain.sites import SiteFacts
from services.coordinator.domain.statistics import judge_statistics
from services.coordinator.domain.validation import Verdict, World, judge
from shared.ids import SiteId
from shared.learning.strategies import strategy_named
from shared.secagg.engines import ENGINES
from shared.wire.profiles import Column, DatasetSchema, Hardware, SiteProfile
from tests.near_misses import exchanged, misspelt, names_in

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


def verdict(document: dict[str, Any]) -> Verdict:
    return (judge_statistics if kind_of(document) == "statistics" else judge)(document, WORLD)


@pytest.mark.parametrize("document", [TRAIN, ASK], ids=["train", "statistics"])
def test_the_documents_are_valid(document: dict[str, Any]) -> None:
    assert verdict(document).resolved.eligible


@given(st.sampled_from([TRAIN, ASK]), st.data())
@settings(max_examples=300, deadline=None)
def test_one_wrong_character_is_refused_with_the_name_that_was_meant(document: dict[str, Any], data: Any) -> None:
    place, name, key = data.draw(st.sampled_from(list(names_in(document, FREE))))
    wrong = data.draw(misspelt(name))
    assume(wrong.strip() == wrong and wrong)
    with pytest.raises(JobInvalid) as refused:
        verdict(exchanged(document, place, name, wrong, key=key))
    said = [error.message for error in refused.value.errors]
    assert any(repr(name) in message for message in said), (place, wrong, said)
