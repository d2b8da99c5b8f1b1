"""The part `privacy` of a policy: what it may say, and which rounds it refuses whatever was spent before."""

from pathlib import Path
from typing import Any

import pytest

from tests.shared.wire.manifests import manifest
from undersong.services.agent.domain.budgets import Budget, PrivacyRule
from undersong.services.agent.domain.rules import Detail
from undersong.services.agent.policy import file as policies
from undersong.services.agent.policy.template import default_policy
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.privacy import PrivacyModel, PrivacyUnit

HEART = {"unit": "site", "epsilon": 8, "delta": 1e-6, "period_days": 30}


def rule(tmp_path: Path, text: str) -> PrivacyRule:
    """The rule of a first policy with this part `privacy` in place of its own."""
    first = default_policy({}, {"heart": ["age"]}, min_cohort=3, reports=Detail.CODE)
    before, _, after = first.partition("privacy:")
    rest = after[after.index("\nhours:") :]
    (tmp_path / "policy.yaml").write_text(before + text + rest)
    return policies.load(tmp_path / "policy.yaml")[0].privacy


def private(**terms: Any) -> RoundManifest:
    """A training round with noise."""
    given = {"model": "local", "unit": "site", "noise_multiplier": 5.0, "delta": 1e-6, "epsilon": 4.0, "rounds": 3}
    return manifest(privacy={**given, "min_sites": 2, **terms})


def test_what_the_file_says_is_what_the_rule_holds(tmp_path: Path) -> None:
    found = rule(tmp_path, f"privacy: {{require: true, mechanisms: [local], budgets: {{heart: {HEART}}}}}")
    assert found.require
    assert found.mechanisms == {PrivacyModel.LOCAL}
    assert found.budget("heart", PrivacyUnit.SITE) == Budget(PrivacyUnit.SITE, 8.0, 1e-6, 30)
    assert found.budget("heart", PrivacyUnit.RECORD) is None
    both = rule(tmp_path, f"privacy: {{budgets: {{heart: [{HEART}, {HEART | {'unit': 'record'}}]}}}}")
    assert {each.unit for each in both.budgets["heart"]} == set(PrivacyUnit)
    assert rule(tmp_path, "") == PrivacyRule()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("privacy: {budgets: {heart: {epsilon: 0, delta: 1.0e-6}}}", "epsilon"),
        ("privacy: {budgets: {heart: {epsilon: 4, delta: 1}}}", "delta"),
        ("privacy: {budgets: {heart: {epsilon: 4}}}", "delta"),
        ("privacy: {budgets: {heart: []}}", "one budget"),
        (f"privacy: {{budgets: {{heart: [{HEART}, {HEART}]}}}}", "at most one for each unit"),
        ("privacy: {mechanisms: [serverr]}", "server"),
        ("privacy: {requires: true}", "require"),
        ("privacy: {min_separation: 0}", "min_separation"),
        ("privacy: {max_attempts: 0}", "max_attempts"),
        ("privacy: {min_colluding: -1}", "min_colluding"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(policies.PolicyError, match=said):
        rule(tmp_path, text)


def test_a_budget_of_a_data_set_that_is_not_allowed_is_told_with_the_near_name(tmp_path: Path) -> None:
    rule(tmp_path, f"privacy: {{budgets: {{hart: {HEART}}}}}")
    found = policies.unresolved(policies.load(tmp_path / "policy.yaml")[0], {"heart": ["age"]}, [])
    assert [fault for fault in found if "hart" in fault.message and "heart" in fault.message]


def test_rounds_that_the_policy_refuses_whatever_was_spent(tmp_path: Path) -> None:
    strict = rule(tmp_path, f"privacy: {{require: true, mechanisms: [local], budgets: {{heart: {HEART}}}}}")
    assert strict.objections(private()) == []
    assert "`require: false`" in strict.objections(manifest())[0]
    assert "`- distributed`" in strict.objections(private(model="distributed"))[0]
    wary = rule(tmp_path, "privacy: {min_colluding: 1}")
    assert "`colluding: 1`" in wary.objections(private(model="distributed"))[0]
    assert wary.objections(private(model="distributed", colluding=1, min_sites=1)) == []
    assert wary.objections(private()) == [], "its own noise is enough alone"
    inside = private(model="record", unit="record", steps={"count": 10, "probability": 0.1, "clip_norm": 1.0})
    assert "no budget for unit record" in strict.objections(inside)[1]
    assert strict.objections(manifest(kind="initialise", encoding=None, model=None)) == []
    assert PrivacyRule().objections(manifest()) == []
