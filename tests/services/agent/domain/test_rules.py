"""The agent's rules, as pure functions."""

from dataclasses import replace
from datetime import UTC, datetime, time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undersong.services.agent.domain.rules import (
    Detail,
    Earlier,
    EarlierAnswer,
    Hours,
    RecipeRule,
    SiteFacts,
    TaskAction,
    TaskFailure,
    next_step,
    objections,
    report,
)
from undersong.services.agent.policy import file as policies
from undersong.services.agent.policy.entries import PolicyFile
from undersong.services.agent.settings import ConfigError
from undersong.shared.secagg.engines import EngineFloors
from undersong.shared.secagg.quantise import plan_encoding, plan_sums
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.profiles import DatasetSchema

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
CODE, OTHER = "a" * 64, "b" * 64
FACTS = SiteFacts("site_a", "fed_1", {"tabular": CODE, "odd": OTHER}, frozenset({"odd"}))
POLICY = policies.to_policy(
    PolicyFile.model_validate(
        {
            "federations": ["own"],
            "recipes": ["tabular", {"name": "odd", "digest": OTHER}],
            "datasets": {"heart": {"columns": ["age", "sick"]}, "open": {"columns": "*"}},
            "engines": ["sealed"],
        }
    )
)
MANIFEST = RoundManifest.model_validate(
    {
        "federation_id": "fed_1",
        "job_id": "job_1",
        "round_id": "rnd_1",
        "number": 1,
        "attempt": 1,
        "kind": "train",
        "engine": "sealed",
        "recipe": {"name": "tabular", "digest": CODE},
        "data": {"dataset": "heart", "features": ["age"], "label": "sick"},
        "model": {"version_id": "ver_1", "digest": CODE},
        "model_id": "mdl_1",
        "encoding": plan_encoding(summands=3, max_weight=8, clip_norm=1.0, bound_value=None, modulus_bits=32),
        "cohort": ["site_a", "site_b", "site_c"],
        "min_cohort": 3,
        "target": 3,
        "strategy": {"name": "fedavg"},
        "seed": 1,
        "deadline_s": 60.0,
    }
)


def codes(manifest: RoundManifest, policy=POLICY, facts=FACTS, now=NOON) -> set[str]:
    return {reason.code for reason in objections(policy, manifest, facts, now)}


def changed(**fields):
    return RoundManifest.model_validate({**MANIFEST.model_dump(), **fields})


def test_what_the_policy_names_may_run() -> None:
    assert codes(MANIFEST) == set()


def test_a_first_model_may_be_sealed_whatever_the_policy_says() -> None:
    """It depends on no data; everything else keeps to the named engines."""
    strict = replace(POLICY, engines=frozenset({"pairwise"}))
    assert codes(MANIFEST, strict) == {"policy-engine"}
    assert codes(changed(kind="initialise", model=None, encoding=None), strict) == set()
    assert codes(changed(kind="initialise", model=None, encoding=None, engine="other"), strict) == {"policy-engine"}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"federation_id": "fed_2"}, "manifest-federation"),
        ({"cohort": ["site_b", "site_c", "site_d"]}, "manifest-cohort"),
        ({"recipe": {"name": "unknown", "digest": CODE}}, "recipe-unknown"),
        ({"recipe": {"name": "tabular", "digest": OTHER}}, "recipe-digest"),
        ({"data": {"dataset": "secret"}}, "policy-dataset"),
        ({"data": {"dataset": "heart", "features": ["name"]}}, "policy-columns"),
        ({"data": {"dataset": "heart", "features": ["age"], "label": "name"}}, "policy-columns"),
        ({"engine": "plain"}, "policy-engine"),
        ({"min_cohort": 2}, "policy-cohort"),
        ({"cohort": ["site_a"], "min_cohort": 1, "target": 1}, "policy-cohort"),
    ],
)
def test_what_it_does_not_name_is_refused(fields: dict, code: str) -> None:
    assert code in codes(changed(**fields))


SICK: dict[str, Any] = {"name": "sick", "type": "category", "categories": ["no", "yes"]}


@pytest.mark.parametrize(
    ("own", "listed", "fits"),
    [
        ({**SICK, "categories": ["yes", "no"]}, [], True),
        ({**SICK, "categories": ["yes"]}, [], False),
        ({**SICK, "categories": ["yes"]}, ["sick"], True),
        ({**SICK, "categories": ["yes", "no", "unsure"]}, ["sick"], False),
        ({"name": "sick", "type": "number"}, [], False),
        ({**SICK, "name": "ill"}, [], False),
    ],
)
def test_a_schema_that_all_sites_did_not_agree_on_is_refused(own: dict, listed: list[str], fits: bool) -> None:
    """The agent's own look: whatever the coordinator knew of the site, its declaration is what counts now."""
    columns = [{"name": "age", "type": "number"}, own]
    schema = DatasetSchema.model_validate({"name": "heart", "kind": "csv", "columns": columns})
    data = {"dataset": "heart", "features": ["age"], "label": "sick", "columns": [columns[0], SICK], "listed": listed}
    facts = replace(FACTS, datasets={"heart": schema})
    assert codes(changed(data=data), facts=facts) == (set() if fits else {"schema-mismatch"})


def test_no_named_column_is_no_way_around_the_policy() -> None:
    """A manifest without features means every declared column, of which the policy must allow each."""
    schema = DatasetSchema.model_validate(
        {"name": "heart", "kind": "csv", "columns": [{"name": name, "type": "number"} for name in ("age", "name")]}
    )
    facts = replace(FACTS, datasets={"heart": schema})
    assert codes(changed(data={"dataset": "heart"}), facts=facts) == {"policy-columns"}


def test_every_objection_is_named_at_once() -> None:
    assert {"policy-dataset", "policy-engine", "policy-cohort"} <= codes(
        changed(data={"dataset": "x"}, engine="plain", min_cohort=1)
    )


def test_own_code_runs_only_by_its_digest() -> None:
    """A name alone covers what is installed with the agent, never the site's own file."""
    assert not RecipeRule("odd", None).allows("odd", OTHER, own=True)
    assert RecipeRule("odd", OTHER).allows("odd", OTHER, own=True)
    assert not RecipeRule("odd", OTHER).allows("odd", CODE, own=True)
    assert codes(changed(recipe={"name": "odd", "digest": OTHER})) == set()


def test_a_first_model_needs_no_cohort_because_it_reads_no_rows() -> None:
    first = changed(kind="initialise", encoding=None, model=None, cohort=["site_a"], min_cohort=1, target=1)
    assert codes(first) == set()
    assert "policy-kind" in codes(first, policy=replace(POLICY, kinds=frozenset({"train"})))


def test_an_unclipped_round_is_refused_where_the_owner_asks_for_clipping() -> None:
    loose = plan_encoding(summands=3, max_weight=8, clip_norm=None, bound_value=1.0, modulus_bits=32)
    strict = replace(POLICY, require_clip=True)
    assert codes(changed(encoding=loose.model_dump()), policy=strict) == {"policy-clip"}
    assert codes(MANIFEST, policy=strict) == set()


PAIRWISE = {"corrupt": 1 / 3, "dropout": 0.3, "quorum": True, "nonce_commitment": "0" * 64}


def planned(sites: int = 5, **params: object) -> RoundManifest:
    cohort = ["site_a", *(f"site_{i:04}" for i in range(sites - 1))]
    encoding = plan_encoding(summands=sites, max_weight=8, clip_norm=1.0, bound_value=None, modulus_bits=32)
    given = {"engine_params": {**PAIRWISE, **params}, "encoding": encoding.model_dump()}
    return changed(engine="pairwise", cohort=sorted(cohort), target=sites, **given)


def under(**rule: object):
    strict = EngineFloors.model_validate({"pairwise": rule})
    return replace(POLICY, engines=frozenset({"pairwise"}), engine_floors=strict)


@pytest.mark.parametrize(
    ("manifest", "rule", "expected"),
    [
        (planned(), {}, set()),
        (planned(600, quorum=False), {}, set()),
        (planned(corrupt=0), {}, {"policy-corrupt"}),
        (planned(corrupt=0), {"min_corrupt": 0}, {"policy-corrupt"}),  # 0 needs the owner's word besides
        (planned(corrupt=0), {"allow_no_colluders": True}, {"policy-corrupt"}),
        (planned(corrupt=0), {"min_corrupt": 0, "allow_no_colluders": True}, set()),
        (planned(corrupt=0.05), {}, {"policy-corrupt"}),
        (planned(corrupt=0.05), {"min_corrupt": 0.05}, set()),
        (planned(corrupt="many"), {}, {"policy-corrupt"}),
        (planned(corrupt=True), {}, {"policy-corrupt"}),
        (planned(quorum=False), {}, {"policy-quorum"}),
        (planned(128, quorum=False), {}, {"policy-quorum"}),
        (planned(129, quorum=False), {}, set()),
        (planned(129, quorum=False), {"quorum": "always"}, {"policy-quorum"}),
        (planned(quorum=False), {"quorum": "optional"}, set()),
        (planned(quorum="yes"), {}, {"policy-quorum"}),
        (planned(), {"min_threshold": 4}, set()),  # t = (5 + 1) // 2 + 1
        (planned(), {"min_threshold": 5}, {"policy-threshold"}),
        (planned(3, corrupt=0.1), {}, {"policy-threshold"}),  # of three sites, two could open everything
        (planned(dropout=0.9), {}, {"policy-threshold"}),
    ],
)
def test_floors_for_pairwise_rounds(manifest: RoundManifest, rule: dict[str, object], expected: set[str]) -> None:
    assert codes(manifest, policy=under(**rule)) == expected


@given(st.times(), st.times(), st.times())
def test_a_window_and_its_complement_cover_the_day(start: time, end: time, at: time) -> None:
    if start != end:
        assert Hours(start, end).holds(at) != Hours(end, start).holds(at)


def test_outside_its_hours_a_site_does_nothing() -> None:
    night = replace(POLICY, hours=(Hours(time(22), time(6)),))
    assert codes(MANIFEST, policy=night) == {"policy-hours"}
    assert codes(MANIFEST, policy=night, now=NOON.replace(hour=23)) == set()


def decide(same_round=None, same_place=None, epoch=0, highest=0, digest=CODE):
    return next_step(digest, epoch, same_round=same_round, same_place=same_place, highest_epoch=highest)


def test_a_new_round_is_trained() -> None:
    assert decide() is TaskAction.TRAIN


def test_what_is_durable_is_sent_again_and_what_is_acknowledged_confirmed() -> None:
    assert decide(EarlierAnswer(Earlier.PENDING, CODE, 0)) is TaskAction.RESEND
    assert decide(EarlierAnswer(Earlier.ANSWERED, CODE, 0)) is TaskAction.CONFIRM


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"same_round": EarlierAnswer(Earlier.ANSWERED, OTHER, 0)}, "round-answered"),
        ({"same_round": EarlierAnswer(Earlier.LOST, CODE, 0)}, "bytes-lost"),
        ({"same_round": EarlierAnswer(Earlier.LATE, CODE, 0)}, "round-closed"),
        ({"epoch": 1, "highest": 2}, "epoch-stale"),
        ({"same_place": EarlierAnswer(Earlier.ANSWERED, OTHER, 0), "epoch": 1}, "round-answered"),
    ],
)
def test_nothing_is_answered_twice(arguments: dict, code: str) -> None:
    with pytest.raises(TaskFailure) as refused:
        decide(**arguments)
    assert refused.value.code == code


@given(st.sampled_from(Earlier), st.booleans(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_a_round_with_an_answer_never_trains_again(
    state: Earlier, same: bool, before: int, now: int, highest: int, place: bool
) -> None:
    answer = EarlierAnswer(state, CODE if same else OTHER, before)
    try:
        step = decide(answer, answer if place else None, now, highest)
    except TaskFailure:
        return
    assert step is not TaskAction.TRAIN


def test_an_exceptions_text_stays_at_home() -> None:
    """By default only the type and the place in the code leave."""
    failure = TaskFailure("recipe-error", "ValueError", where=["odd.py:3 in train"], text="ValueError: 'Smith'")
    assert report(failure, Detail.CODE).trace == ()
    told = report(failure, Detail.LOCATION)
    assert (told.message, told.trace) == ("ValueError", ("odd.py:3 in train",))
    assert "Smith" in report(failure, Detail.FULL).message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1", "not YAML"),
        ("min_cohort: 0", "min_cohort"),
        ("recipes: [{}]", "a name, a digest"),
        ("federations: []\nrecipes: []\ndatasets: {}\nengines: []\nhours: [late]", "HH:MM"),
        ("federations: []\nrecipes: []\ndatasets: {}\nengines: []\ntimezone: Mars/Base", "Mars"),
        ("surprise: 1", "surprise"),
    ],
)
def test_a_bad_policy_is_refused_by_name(tmp_path, text: str, says: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        policies.load(path)


def test_an_unquoted_null_is_the_recipe_of_that_name() -> None:
    file = PolicyFile.model_validate(
        {"federations": [], "recipes": [{"name": None, "digest": None}], "datasets": {}, "engines": []}
    )
    assert file.recipes[0].name == "null"


ASKED = {
    "measures": [{"measure": "moments", "columns": [{"column": "age"}]}],
    "min_cell": 5,
    "min_sites": 3,
    "job_measures": ["moments"],
}


@pytest.mark.parametrize(
    ("params", "rule", "wanted"),
    [
        ({}, {}, set()),
        ({"min_cell": 4}, {}, {"policy-cell"}),
        ({"min_cell": 4}, {"min_cell": 4}, set()),
        ({}, {"measures": ["histogram"]}, {"policy-measures"}),
        ({"job_measures": ["moments", "table"]}, {"measures": ["moments"]}, {"policy-measures"}),  # of a later round
        ({"job_measures": ["table"]}, {}, {"statistics-unreadable"}),  # hides what it asks now
        ({"measures": [{"measure": "moments", "columns": [{"column": "sick"}]}]}, {}, {"manifest-columns"}),
        ({"measures": [{"measure": "rows", "columns": ["age"]}]}, {}, {"statistics-unreadable"}),
        ({"min_sites": 2}, {}, {"policy-cohort"}),
        ({}, {"min_cohort": 4}, {"policy-cohort"}),
        ({}, {"max_sums": 8}, {"policy-sums"}),
    ],
)
def test_statistics_are_judged_by_what_they_add_up(params, rule, wanted) -> None:
    """What leaves is what the measures say, whatever the job calls itself."""
    file = PolicyFile.model_validate(
        {
            "federations": ["own"],
            "recipes": ["statistics"],
            "datasets": {"heart": {"columns": ["age", "sick"]}},
            "engines": ["sealed"],
            "statistics": rule,
        }
    )
    manifest = changed(
        kind="statistics",
        model=None,
        model_id=None,
        recipe={"name": "statistics", "digest": CODE, "params": ASKED | params},
        data={"dataset": "heart", "features": ["age"]},
    )
    facts = SiteFacts("site_a", "fed_1", {"statistics": CODE}, frozenset())
    assert codes(manifest, policies.to_policy(file), facts) == wanted


def test_sums_that_trees_grow_by_are_training_and_keep_to_the_least_rows() -> None:
    """They are rounds of statistics by name: the policy's `standardise` and `statistics` do not allow them."""
    facts = SiteFacts("site_a", "fed_1", {"trees": CODE, "tabular": CODE}, frozenset(), growing=frozenset({"trees"}))
    asked = {"kind": "statistics", "encoding": plan_sums(summands=3), "length": 200, "model": None}
    rows = {"name": "trees", "digest": CODE, "params": {"min_rows": 10}}
    open_to = replace(POLICY, recipes=(RecipeRule("trees", None),), statistics=replace(POLICY.statistics, min_cell=10))
    assert codes(changed(**asked, recipe=rows), open_to, facts) == set()
    for kinds in ({"statistics"}, {"standardise"}, {"statistics", "standardise", "evaluate"}):
        assert codes(changed(**asked, recipe=rows), replace(open_to, kinds=frozenset(kinds)), facts) == {"policy-kind"}
    few = changed(**asked, recipe={**rows, "params": {"min_rows": 9}})
    assert codes(few, open_to, facts) == {"policy-cell"}
    odd = changed(**asked, recipe={**rows, "params": {"min_row": 9}})
    assert codes(odd, open_to, facts) == {"statistics-unreadable"}
    exact = replace(open_to, privacy=replace(open_to.privacy, require=True))
    assert codes(changed(**asked, recipe=rows), exact, facts) == {"policy-privacy"}
