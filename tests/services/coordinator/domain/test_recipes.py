"""What a strategy sets at the sites: for recipes that know it, never by hand, and nothing that does not go with it."""

from typing import Any

import pytest

from tests.services.coordinator.domain.test_validation_names import TRAIN, WORLD
from undersong.services.coordinator.domain.findings import JobInvalid
from undersong.services.coordinator.domain.spec import JobSpec
from undersong.services.coordinator.domain.validation import judge


def document(strategy: dict[str, Any], **params: Any) -> dict[str, Any]:
    made = {**TRAIN, "strategy": strategy}
    return {**made, "recipe": {**made["recipe"], "params": {**made["recipe"]["params"], **params}}}


@pytest.mark.parametrize(
    ("strategy", "params", "path", "said"),
    [
        ({"name": "fednova"}, {"optimiser": "adam"}, "/recipe/params", "set optimiser: sgd, or take another strategy"),
        ({"name": "qfedavg"}, {"control_variates": True}, "/recipe/params", "set control_variates: false"),
        ({"name": "fedavg"}, {"scaled_by": "loss"}, "/recipe/params/scaled_by", "is set by the strategy"),
        ({"name": "qfedavg", "params": {"q": -1}}, {}, "/strategy/params/q", "0 <= x <= 10"),
        ({"name": "qfedavg", "params": {"p": 1}}, {}, "/strategy/params/p", "is not a parameter"),
        ({"name": "fednove"}, {}, "/strategy/name", "did you mean 'fednova'"),
    ],
)
def test_what_does_not_go_with_a_strategy_is_refused_where_it_stands(
    strategy: dict[str, Any], params: dict[str, Any], path: str, said: str
) -> None:
    with pytest.raises(JobInvalid) as refused:
        judge(document(strategy, **params), WORLD)
    assert any(fault.path == path and said in fault.message for fault in refused.value.errors), refused.value.errors


def test_a_recipe_that_cannot_scale_is_named() -> None:
    asked = document({"name": "fednova"})
    asked["recipe"] = {"name": "statistics", "params": {}}
    with pytest.raises(JobInvalid) as refused:
        judge(asked, WORLD)
    assert any("sites would scale their updates for fednova" in fault.message for fault in refused.value.errors)


def test_sites_get_what_the_strategy_sets() -> None:
    made = judge(document({"name": "qfedavg", "params": {"q": 2}}), WORLD).spec
    assert isinstance(made, JobSpec)
    assert made.recipe_params.items() >= {"scaled_by": "loss", "fairness": 2.0, "epochs": 2}.items()
    plain = judge(document({"name": "fedavg"}), WORLD).spec
    assert isinstance(plain, JobSpec)
    assert plain.recipe_params == plain.recipe.params


@pytest.mark.parametrize("value", [2.0, 1e300, True, "2"])
def test_what_counts_is_a_whole_number_in_type_too(value: object) -> None:
    """Recipes count by it, and a float would fail at every site, once rounds have begun."""
    with pytest.raises(JobInvalid) as refused:
        judge(document({"name": "fedavg"}, epochs=value), WORLD)
    assert any(fault.path == "/recipe/params/epochs" for fault in refused.value.errors), refused.value.errors
