"""A strategy against poisoned updates: refused where the engine neither shows nor proves what it rests on."""

from typing import Any

import pytest

from tests.services.coordinator.domain.test_recipes import document
from tests.services.coordinator.domain.test_validation_names import WORLD
from undersong.services.coordinator.domain.findings import JobInvalid
from undersong.services.coordinator.domain.validation import judge
from undersong.shared.learning.strategies import STRATEGIES
from undersong.shared.secagg.engines import ENGINES


def asked(name: str, engine: str, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    strategy = {"name": name, "params": params or {}, "weighting": "equal"}
    return {**document(strategy), "engine": engine, "update": {"clip_norm": 1.0}, "cohort": {"min": 3}, **more}


def faults(job: dict[str, Any]) -> dict[str, str]:
    try:
        judge(job, WORLD)
    except JobInvalid as refused:
        return {fault.path: fault.message for fault in refused.errors}
    return {}


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_facts_of_the_engine_decide_and_the_sentence_names_one_that_offers_it(name: str, engine: str) -> None:
    """Whatever engines there are: by what they see and prove, not by their names."""
    strategy, facts = STRATEGIES[name], ENGINES[engine]
    said = faults(asked(name, engine)).get("/strategy/name")
    if strategy.rule is not None and not facts.sees_updates:
        assert said is not None
        assert "no party sees one" in said
        assert any(each.name in said and each.wording.seen_by in said for each in ENGINES.values() if each.sees_updates)
    elif strategy.rests_on_norms and not facts.proves_norm:
        assert said is not None
        assert any(each.name in said for each in ENGINES.values() if each.proves_norm)
    else:
        assert said is None


@pytest.mark.parametrize(
    ("job", "path", "said"),
    [
        (asked("krum", "sealed"), "/cohort/min", "needs 5 sites a round"),
        (asked("krum", "sealed", {"attackers": 2}), "/cohort/min", "needs 7 sites"),
        (asked("trimmed_mean", "sealed", {"trim": 0.25}), "/cohort/min", "needs 4 sites a round: of fewer"),
        (asked("trimmed_mean", "sealed", {"trim": 0.5}), "/strategy/params/trim", "x < 0.5"),
        (asked("krum", "sealed", {"attackrs": 1}), "/strategy/params/attackrs", "did you mean 'attackers'"),
        (asked("medin", "sealed"), "/strategy/name", "did you mean 'median'"),
        (asked("bounded_mean", "twoserver", update={}), "/update/clip_norm", "give it"),
        (
            asked("median", "sealed", privacy={"model": "distributed", "epsilon": 4.0}),
            "/strategy/name",
            "the noise is on the sum of all updates",
        ),
    ],
)
def test_too_few_sites_wrong_numbers_and_noise_on_a_sum_are_refused(job: dict[str, Any], path: str, said: str) -> None:
    assert said in faults(job)[path]


def smaller(engine: str = "pairwise", strategy: str = "fedavg", **update: Any) -> dict[str, Any]:
    return asked(strategy, engine, update={"clip_norm": 1.0, **update})


PRIVATE = {"model": "distributed", "epsilon": 4.0, "delta": 1e-4}


@pytest.mark.parametrize(
    ("job", "path", "said"),
    [
        (smaller("twoserver", rotation=True), "/update/rotation", "words of 64 bits, rotated or not"),
        (asked("fedavg", "pairwise", update={"rotation": True}), "/update/clip_norm", "update.rotation needs"),
        (smaller(strategy="qfedavg", error_feedback=True), "/update/error_feedback", "in different units"),
        (smaller(strategy="fedbuff", keep=0.5), "/update", "send changes whole"),
        ({**smaller(keep=0.5), "privacy": PRIVATE}, "/update/keep", "sent whole"),
        ({**smaller(rotation=True), "privacy": PRIVATE}, "/update/rotation", "as they are"),
        (
            {**smaller(error_feedback=True), "privacy": {**PRIVATE, "model": "record"}},
            "/update/error_feedback",
            "would be sent again",
        ),
        *((smaller(keep=bad), "/update/keep", "") for bad in (0, -1, 1, 1e-9, "0.5", True, 1e300)),
        (smaller(rotation=True, clip_norm=1e-306), "/update/modulus_bits", "too small to be divided"),
        (smaller(rotation=1), "/update/rotation", "boolean"),
        (smaller(modulus_bits=16, rotation=True, max_weight=65_536), "/update/modulus_bits", ""),
    ],
)
def test_compression_that_cannot_be_kept_is_refused(job: dict[str, Any], path: str, said: str) -> None:
    if path == "/update/modulus_bits" and not said:  # every site weighs the same with `equal`: room for 4095 of them
        assert not faults(job)
        return
    assert said in faults(job)[path]


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_each_engine_sends_a_part_and_keeps_the_rest(engine: str) -> None:
    assert not faults(smaller(engine, keep=0.1, error_feedback=True))


@pytest.mark.parametrize(
    ("cohort", "said"),
    [({"min": 3, "enough": 2}, "less than min, which is 3"), ({"min": 3, "max": 4, "enough": 5}, "more than max")],
)
def test_enough_lies_between_the_fewest_and_the_most(cohort: dict[str, int], said: str) -> None:
    assert said in faults(asked("fedavg", "pairwise", cohort=cohort))["/cohort/enough"]


def test_what_a_rule_can_keep_is_taken_and_says_that_sites_count_the_same() -> None:
    assert not faults(asked("median", "sealed"))
    assert not faults(asked("bounded_mean", "twoserver"))
    by_examples = {**asked("median", "sealed"), "strategy": {"name": "median"}}
    assert any("counts every site the same" in warning.message for warning in judge(by_examples, WORLD).warnings)
