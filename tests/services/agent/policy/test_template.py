"""The policy that an agent writes at its first start: what it allows, and the line for each weaker choice."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.shared.wire.manifests import manifest as make_manifest
from undersong.services.agent.domain.rules import Detail, Policy, RecipeRule, SiteFacts, objections
from undersong.services.agent.policy import file as policies
from undersong.services.agent.policy.template import default_policy
from undersong.shared.ids import Digest, SiteId
from undersong.shared.secagg.quantise import plan_sums

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
CODE = Digest("a" * 64)
FACTS = SiteFacts(SiteId("site_a"), "fed_1", {"null": CODE, "statistics": CODE}, frozenset())


def first_policy(tmp_path: Path, *, uncomment: tuple[str, ...] = ()) -> Policy:
    """The policy that an agent writes, with these lines uncommented."""
    recipes = {"null": CODE, "statistics": CODE}
    text = default_policy(recipes, {"heart": ["age"]}, min_cohort=3, reports=Detail.LOCATION)
    for line in uncomment:
        assert text.count(f"# {line} ") == 1, line
        text = text.replace(f"# {line} ", f"{line} ")
    (tmp_path / "policy.yaml").write_text(text)
    return policies.load(tmp_path / "policy.yaml")[0]


WEAKER = {
    "- sealed": {"engine": "sealed"},
    "- statistics": {"kind": "statistics", "recipe": "statistics", "measure": "moments"},
    "- ranges": {"kind": "statistics", "recipe": "statistics", "measure": "ranges"},
    "- histogram": {"kind": "statistics", "recipe": "statistics", "measure": "histogram"},
    "- table": {"kind": "statistics", "recipe": "statistics", "measure": "table"},
    "- products": {"kind": "statistics", "recipe": "statistics", "measure": "products"},
    "- clusters": {"kind": "statistics", "recipe": "statistics", "measure": "clusters"},
    "- likelihood": {"kind": "statistics", "recipe": "statistics", "measure": "likelihood"},
}
MEASURES = {
    "moments": {"measure": "moments", "columns": [{"column": "age"}]},
    "ranges": {"measure": "ranges", "columns": ["age"]},
    "histogram": {"measure": "histogram", "column": "age", "low": 0.0, "high": 1.0, "bins": 2},
    "table": {"measure": "table", "axes": [{"column": "age", "values": [1.0, 2.0]}]},
    "products": {"measure": "products", "terms": [{"column": "age"}]},
    "clusters": {"measure": "clusters", "columns": [{"column": "age"}], "starts": [[[0.0], [1.0]]]},
    "likelihood": {
        "measure": "likelihood",
        "family": "logistic",
        "terms": [{"column": "age"}],
        "response": {"column": "age"},
        "coefficients": [0.0, 0.0],
    },
}


PLANNED = {"corrupt": 1 / 3, "dropout": 0.3, "quorum": True, "nonce_commitment": "0" * 64}  # as a coordinator plans


def asks(engine: str = "pairwise", kind: str = "train", recipe: str = "null", measure: str = "", **changes):
    """A manifest for this site; of a statistics job where it names a measure."""
    params = (
        {"measures": [MEASURES[measure]], "min_cell": 5, "min_sites": 3, "job_measures": [measure]} if measure else {}
    )
    encoding = {"encoding": plan_sums(summands=3)} if kind != "train" else {}
    fields = {
        "engine": engine,
        "kind": kind,
        "recipe": {"name": recipe, "digest": CODE, "params": params},
        "data": {"dataset": "heart", "features": ["age"], "label": None},
        **encoding,
        **({"engine_params": PLANNED} if engine == "pairwise" else {}),
        **changes,
    }
    return make_manifest(**{"min_cohort": 3, **fields})


@pytest.mark.parametrize("line", WEAKER)
def test_each_weaker_choice_is_one_line_that_the_refusal_names(tmp_path, line: str) -> None:
    """As it is written, the policy refuses it and says which line; with the line uncommented it is allowed."""
    asked = asks(**WEAKER[line])
    above = ("- statistics",) if WEAKER[line].get("measure", "moments") != "moments" else ()
    refusals = objections(first_policy(tmp_path, uncomment=above), asked, FACTS, NOON)
    assert len(refusals) == 1, refusals
    assert f"`{line}`" in refusals[0].detail
    assert "policy.yaml" in refusals[0].detail
    assert objections(first_policy(tmp_path, uncomment=(*above, line)), asked, FACTS, NOON) == ()


def test_a_first_policy_allows_a_whole_training_job_and_no_smaller_cohort(tmp_path) -> None:
    policy = first_policy(tmp_path)
    for engine in ("pairwise", "twoserver"):
        for kind in ("statistics", "train", "evaluate"):  # the first: how a training job scales its columns
            assert objections(policy, asks(engine, kind), FACTS, NOON) == (), kind
    assert objections(policy, asks("sealed", "initialise", encoding=None, min_cohort=1), FACTS, NOON) == ()
    (small,) = objections(policy, asks(min_cohort=2), FACTS, NOON)
    assert "`min_cohort: 2`" in small.detail
    written = (tmp_path / "policy.yaml").read_text()
    (tmp_path / "policy.yaml").write_text(
        written.replace("min_cohort: 3 ", "# ").replace("# min_cohort: 2 ", "min_cohort: 2 ")
    )
    assert objections(policies.load(tmp_path / "policy.yaml")[0], asks(min_cohort=2), FACTS, NOON) == ()
    assert policy.engines == {"pairwise", "twoserver"}
    assert policy.kinds == {"initialise", "standardise", "train", "evaluate"}
    assert policy.statistics.measures == {"moments"}
    assert policy.min_cohort == 3


def test_kind_standardise_allows_no_statistics_job(tmp_path) -> None:
    """The same kind of round, told apart by its recipe: figures are asked for by the recipe `statistics` alone."""
    jobs = objections(
        first_policy(tmp_path), asks(kind="statistics", recipe="statistics", measure="moments"), FACTS, NOON
    )
    assert [reason.code for reason in jobs] == ["policy-kind"]


def test_a_default_policy_is_explicit_and_reads_back(tmp_path) -> None:
    text = default_policy({"null": CODE}, {"heart": ["age"]}, min_cohort=4, reports=Detail.CODE)
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    policy, zone = policies.load(path)
    assert policy.recipes == (RecipeRule("null", CODE),)
    assert policy.datasets == {"heart": frozenset({"age"})}
    assert (policy.min_cohort, policy.reports, str(zone)) == (4, Detail.CODE, "UTC")
