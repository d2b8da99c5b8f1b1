"""A data map tells each thing that leaves a site, for every engine, and no more than the job sends."""

from typing import Any

import pytest

from tests.shared.transparency.sheets import terms
from undersong.shared.ids import SiteId
from undersong.shared.secagg.engines import ENGINES
from undersong.shared.sections import markdown_page
from undersong.shared.transparency.datamap import DataMap, MappedJob, MappedSite, datamap_sections, make_datamap

SITE = MappedSite(
    site_id=SiteId("site_1"),
    name="north",
    organisation="Nordklinikum",
    dataset="heart",
    columns=("age", "sex"),
    answered=4,
)


def mapped(engine: str = "pairwise", **changes: Any) -> DataMap:
    job = {"job_id": "job_1", "name": "a|b", "engine": engine, "sites": (SITE,), "recipe": "tabular", "model": "heart"}
    return make_datamap(MappedJob(**{**job, **changes}))


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_says_who_can_read_what(engine: str) -> None:
    made = mapped(engine, evaluates=True, standardises=True)
    facts = ENGINES[engine]
    sums = [flow for flow in made.flows if flow.to.startswith("aggregator")]
    assert [flow.what for flow in sums] == [
        "sums that standardise columns", "update of the model", "sums of the evaluation"
    ]  # fmt: skip
    assert {flow.readable_by for flow in sums} == {facts.wording.seen_by}
    assert made.collusion == facts.wording.collusion
    assert ("messages of the protocol" in {flow.what for flow in made.flows}) == (len(facts.steps) > 1)
    assert all(flow.kept for flow in (*made.flows, *made.results))


def test_a_job_sends_no_more_than_it_asks_for() -> None:
    plain = {flow.what for flow in mapped().flows}
    assert plain.isdisjoint({"sums of the evaluation", "sums that standardise columns"})
    asked = mapped(model=None, queries=("mean", "histogram"))
    assert "sums of the queries" in {flow.what for flow in asked.flows}
    assert "update of the model" not in {flow.what for flow in asked.flows}
    assert [flow.what for flow in asked.results] == ["answers"]
    assert asked.purpose.endswith("mean, histogram")


def test_noise_is_told_with_what_it_bounds() -> None:
    assert mapped().noise == "none: sums are opened exactly"
    noisy = mapped(terms=terms())
    assert noisy.noise.startswith("epsilon 4 at delta 1e-06 for each site")
    assert any("with noise that the site adds" in flow.form for flow in noisy.flows)
    by_servers = mapped("twoserver", terms=terms("server"))
    assert not any("noise that the site adds" in flow.form for flow in by_servers.flows)
    (exact,), (told,) = (mapped(model=None, queries=("mean",), terms=each).results for each in (None, terms()))
    assert exact.form.endswith("(exact); small counts are withheld")
    assert told.form.endswith("(with noise); small counts are told as they are with their noise")


def test_the_document_is_whole_in_every_form() -> None:
    made = mapped()
    assert DataMap.model_validate_json(made.model_dump_json()) == made
    text = markdown_page("t", datamap_sections(made))
    assert "a\\|b" in text
    for flow in (*made.flows, *made.results):
        assert flow.what in text


def test_trees_send_sums_and_no_updates() -> None:
    told = {flow.what for flow in mapped(grows=True, evaluates=True).flows}
    assert {"sums that trees grow by", "sums of the evaluation"} < told
    assert told.isdisjoint({"update of the model", "sums that standardise columns"})
