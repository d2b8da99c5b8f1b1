"""What `undersong policy lint`, `explain` and `diff` say of a policy is what the agent does with it."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.services.agent.domain.test_rules import CODE, FACTS, MANIFEST, NOON, OTHER, changed
from tests.services.agent.policy.test_file_references import POLICY, SITE
from undersong.cli import app
from undersong.services.agent.domain.rules import objections
from undersong.services.agent.policy import file as policies
from undersong.services.agent.policy.entries import PolicyFile
from undersong.services.agent.policy.explain import diff, explain, rules
from undersong.services.agent.site.policy_lint import lint
from undersong.shared.yaml_texts import dump_document

SOME = {
    "federations": [["own"], ["*"], [], ["fed_1", "fed_2"]],
    "recipes": [["tabular"], [{"name": "tabular", "digest": CODE}], [{"digest": OTHER}], [], ["tabular", "odd"]],
    "datasets": [{"heart": {"columns": ["age", "sick"]}}, {"heart": {"columns": "*"}}, {}, {"open": {"columns": []}}],
    "engines": [["sealed"], ["pairwise"], [], ["sealed", "twoserver"]],
    "kinds": [["train"], ["evaluate", "standardise"], ["statistics"], []],
    "min_cohort": [1, 3, 4],
    "require_clip": [True, False],
    "privacy": [
        {},
        {"require": True},
        {"mechanisms": ["local"], "max_participations": 3, "max_attempts": 1},
        {"min_colluding": 1, "max_attempts": 9},
        {"budgets": {"heart": {"epsilon": 2, "delta": 1e-6}}},
        {"budgets": {"heart": {"unit": "record", "epsilon": 4, "delta": 1e-7}}, "min_separation": 2},
    ],
    "consent": ["none", "new"],
    "site_metrics": [None, {}, {"min_rows": 500, "noise": 0.1}],
    "hours": [[], ["08:00-18:00"], ["22:00-06:00"], ["10:00-11:00", "12:00-13:00"]],
    "pairwise": [{}, {"min_corrupt": 0, "allow_no_colluders": True}, {"min_threshold": 2, "quorum": "always"}],
}
FILES = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in SOME.items()}).map(
    PolicyFile.model_validate
)
PAIRWISE = {"engine": "pairwise", "engine_params": {"corrupt": 0, "dropout": 0.0, "quorum": True}}
NOISE = {"model": "local", "unit": "site", "noise_multiplier": 1.0, "delta": 1e-6, "epsilon": 5.0, "rounds": 1}
ROUNDS = [
    changed(privacy={**NOISE, "min_sites": 3}),
    MANIFEST,
    changed(kind="evaluate"),
    changed(kind="statistics", model=None),
    changed(**PAIRWISE),
    changed(encoding={**MANIFEST.encoding.model_dump(), "clip_norm": None}),
    changed(data={"dataset": "heart", "features": ["age"]}),
    changed(recipe={"name": "odd", "digest": OTHER}),
]


def allows(file: PolicyFile, manifest: Any, hour: int) -> bool:
    return not objections(policies.to_policy(file), manifest, FACTS, NOON.replace(hour=hour))


@given(FILES, FILES, st.sampled_from(ROUNDS), st.sampled_from([4, 12, 17, 23]))
def test_a_round_that_only_one_policy_allows_is_in_their_difference(
    old: PolicyFile, new: PolicyFile, manifest: Any, hour: int
) -> None:
    more, less = diff(old, new)
    before, after = allows(old, manifest, hour), allows(new, manifest, hour)
    assert more or before or not after
    assert less or after or not before
    assert diff(old, old) == ([], [])


def test_the_difference_names_what_was_meant() -> None:
    old = PolicyFile.model_validate(POLICY)
    new = PolicyFile.model_validate(
        {**POLICY, "engines": ["pairwise", "sealed"], "min_cohort": 4, "datasets": {"heart": {"columns": "*"}}}
    )
    more, less = diff(old, new)
    assert more == [
        "Every column of heart may be read, not only age, disease.",
        "Updates may be summed by engine sealed (who sees a single one: the aggregator sees each update).",
    ]
    assert "Sums over 4 or more sites may be opened (before: sums over 3 or more sites may be opened)." in less
    assert any("twoserver" in sentence for sentence in less)
    telling = PolicyFile.model_validate({**POLICY, "site_metrics": {"noise": 0.02}})
    said = "Jobs that ask are told this site's own metrics, of 100 or more test rows, with noise of 0.02"
    assert diff(old, telling) == ([f"{said} (before: this site's own metrics never leave it)."], [])
    noised = PolicyFile.model_validate({**POLICY, "site_metrics": {"noise": 0.5}})
    assert [bool(part) for part in diff(telling, noised)] == [False, True]
    assert any("Data set images" in sentence for sentence in less)


def test_every_field_of_the_file_is_explained() -> None:
    said = {place.split(".")[0] for place in rules(PolicyFile.model_validate(POLICY))}
    assert said | {"version", "hours", "timezone"} == set(PolicyFile.model_fields)
    allowed, refused = explain(PolicyFile.model_validate({**POLICY, "hours": ["08:00-12:00"]}))
    assert "Tasks may begin from 08:00-12:00 (time zone Europe/Berlin)." in allowed
    assert any("engine sealed" in sentence and sentence.startswith("Not allowed") for sentence in refused)


BAD = """\
# a comment
federations: [own, fad_1]
recipess: []
recipes:
- tabular
- {name: tabular, digest: 12}
datasets:
  heart: {colums: [age]}
engines: [pairwize]
hours:
- late
- 25:00-1
statistics:
  min_cell: 0
"""


def test_lint_gives_every_fault_its_line_and_a_remedy() -> None:
    found = lint(BAD.encode())
    assert {(each.line, each.place) for each in found} == {
        (2, "federations.1"),
        (3, "recipess"),
        (6, "recipes.1.digest"),
        (8, "datasets.heart.columns"),
        (8, "datasets.heart.colums"),
        (9, "engines.0"),
        (11, "hours.0"),
        (12, "hours.1"),
        (14, "statistics.min_cell"),
    }
    assert all(each.remedy and each.state == "fault" for each in found)


@pytest.mark.parametrize(
    ("data", "line", "said"),
    [
        (b"federations: [own]\na: b: c\n", 2, "not YAML"),
        (b"federations: [own]\nengines: []\nengines: []\n", 1, "written twice"),
        (b"federations:\n- \xff\n", 2, "UTF-8"),
        (b"- own\n", 1, "mapping"),
    ],
)
def test_lint_of_what_is_no_policy(data: bytes, line: int, said: str) -> None:
    (found,) = lint(data)
    assert said in found.message
    assert found.line == line


def test_lint_names_what_noise_does_not_bound() -> None:
    budget = {"budgets": {"heart": {"epsilon": 1, "delta": 1e-6}}}
    asked = {"consent": "new", "auto_approve": [{"digest": "0" * 64, "epsilon": 1}]}
    sets: dict[str, Any] = {"datasets": {"heart": {"columns": ["age"]}}}
    for changes, places in (
        ({"privacy": budget}, {"privacy.require"}),
        ({"privacy": {"require": True}}, {"privacy.budgets"}),
        ({"privacy": {**budget, "require": True}, **asked}, set()),
        (asked, {"auto_approve"}),
    ):
        found = lint(dump_document({**POLICY, **sets, **changes}).encode())
        assert {each.place for each in found} & {"privacy.require", "privacy.budgets", "auto_approve"} == places


def test_lint_names_data_sets_that_read_one_file_and_so_share_a_budget() -> None:
    names = {name: {"columns": ["age"]} for name in ("heart", "hearts", "lungs")}
    policy = {**POLICY, "datasets": names, "privacy": {"budgets": {"hearts": {"epsilon": 1, "delta": 1e-6}}}}
    same = {"heart": frozenset({"hearts"}), "hearts": frozenset({"heart"})}
    text = dump_document(policy)
    found = [each for each in lint(text.encode(), None, same) if "spent of the budgets of all" in each.message]
    assert [(each.place, text.splitlines()[each.line - 1].strip()) for each in found] == [("datasets.heart", "heart:")]
    unbounded = dump_document({**policy, "privacy": {}})
    assert not [each for each in lint(unbounded.encode(), None, same) if "budgets of all" in each.message]


def test_a_budget_takes_no_delta_that_noise_is_not_drawn_for() -> None:
    for delta, faults in ((1e-12, 0), (1e-13, 1), (0, 1)):
        policy = {**POLICY, "privacy": {"budgets": {"heart": {"epsilon": 1, "delta": delta}}}}
        found = [each for each in lint(dump_document(policy).encode()) if each.place.endswith("delta")]
        assert len(found) == faults


def test_lint_resolves_names_at_the_site() -> None:
    document = {**POLICY, "recipes": ["tabuler"], "datasets": {"hart": {"columns": "*"}, "heart": {"columns": ["aeg"]}}}
    text = dump_document(document)
    lines = text.splitlines()
    found = [each for each in lint(text.encode(), SITE) if each.state == "fault"]
    assert [(lines[each.line - 1].strip(), each.place) for each in found] == [
        ("- tabuler", "recipes"),
        ("hart:", "datasets"),
        ("- aeg", "datasets.heart"),
    ]
    assert all(each.remedy == "correct the name" for each in found)
    assert [each for each in lint(dump_document(POLICY).encode(), SITE) if each.state == "fault"] == []


def test_the_commands(tmp_path: Any) -> None:
    good, bad, more = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "more.yaml"
    good.write_text(yaml.safe_dump(POLICY))
    bad.write_text(BAD)
    more.write_text(yaml.safe_dump({**POLICY, "min_cohort": 2}))
    run = CliRunner().invoke
    assert run(app, ["policy", "lint", str(good)]).exit_code == 0
    told = run(app, ["policy", "lint", str(good), str(bad)])
    assert told.exit_code == 1
    assert f"{bad}:9: fault: engines.0: engine 'pairwize' is unknown; did you mean 'pairwise'?" in told.stdout
    told = run(app, ["policy", "diff", str(good), str(more)])
    assert (told.exit_code, "Sums over 2 or more sites" in told.stdout) == (1, True)
    assert run(app, ["policy", "diff", str(good), str(good)]).exit_code == 0
    assert "Column age of heart may be read." in run(app, ["policy", "explain", str(good)]).stdout
