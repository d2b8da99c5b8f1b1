"""A job's section `privacy`: calibrated at submission, with every fault at once, and planned before anything runs."""

import math
from dataclasses import replace
from typing import Any, cast

import pytest

from tests.services.coordinator.domain.test_validation_names import ASK, DATASETS, PROFILE, TRAIN, WORLD
from undersong.recipes.catalogue import load_recipe
from undersong.services.coordinator.domain.findings import Findings, JobInvalid
from undersong.services.coordinator.domain.manifests import train_encoding
from undersong.services.coordinator.domain.noisy_steps import settle_steps
from undersong.services.coordinator.domain.parts import PrivacyPart
from undersong.services.coordinator.domain.privacy_plan import plan_of, saving_of
from undersong.services.coordinator.domain.recipes import standardises
from undersong.services.coordinator.domain.spec import JobSpec
from undersong.services.coordinator.domain.statistics import judge_statistics
from undersong.services.coordinator.domain.validation import ValidJob, judge
from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.secagg.private import expected_event
from undersong.shared.wire.privacy import (
    AdaptiveClip,
    GaussianEvent,
    NoisySteps,
    PoissonGaussianEvent,
    PrivacyModel,
    PrivacyTerms,
    PrivacyUnit,
    ZeroConcentratedEvent,
    terms_sentence,
)
from undersong.shared.wire.profiles import RecipeSpec

EVALUATION = {"every": 0}
BOUNDED = [
    {"query": "mean", "columns": ["age"], "ranges": {"age": [0, 100]}},
    {"query": "contingency", "columns": ["sex", "disease"]},
    {"query": "histogram", "column": "age", "range": [0, 100], "bins": 4},
]


def training(privacy: dict[str, Any], **changes: Any) -> ValidJob:
    """The verdict on a training job with this section."""
    return judge({**TRAIN, "evaluation": EVALUATION, "privacy": privacy, **changes}, WORLD)


def terms_of(job: ValidJob) -> PrivacyTerms:
    """The terms that were settled."""
    assert job.resolved.privacy is not None
    return job.resolved.privacy


def faults(found: pytest.ExceptionInfo[JobInvalid]) -> dict[str, str]:
    """What is wrong, by path."""
    return {error.path: error.message for error in found.value.errors}


def test_distributed_noise_is_calibrated_for_the_whole_job() -> None:
    terms = terms_of(training({"model": "distributed", "epsilon": 4.0, "delta": 1e-5}, rounds=10))
    assert (terms.unit, terms.rounds, terms.min_sites) == (PrivacyUnit.SITE, 10, 3)
    assert 3.99 < terms.epsilon <= 4.0
    cost = ZeroConcentratedEvent(rho=0.5 / terms.noise_multiplier**2, count=10)
    assert epsilon_of([cost], 1e-5) == terms.epsilon


def test_servers_noise_is_calibrated_in_closed_form_and_colluding_sites_do_not_count() -> None:
    terms = terms_of(training({"model": "server", "epsilon": 4.0, "colluding": 1}, engine="twoserver"))
    assert terms.epsilon == pytest.approx(4.0, rel=1e-6)
    assert terms.epsilon <= 4.0
    assert (terms.min_sites, terms.colluding) == (2, 1)
    given = terms_of(training({"model": "server", "noise_multiplier": terms.noise_multiplier}, engine="twoserver"))
    assert given.epsilon == terms.epsilon
    assert epsilon_of([GaussianEvent(noise_multiplier=terms.noise_multiplier, count=2)], 1e-6) == terms.epsilon


def test_noise_that_delta_covers_alone_is_claimed_to_cost_next_to_nothing() -> None:
    terms = terms_of(training({"model": "server", "noise_multiplier": 10_000.0, "delta": 1e-4}, engine="twoserver"))
    assert 0 < terms.epsilon < 1e-6


@pytest.mark.parametrize(
    ("model", "engine"), [("distributed", "pairwise"), ("server", "twoserver"), ("local", "sealed")]
)
def test_a_clip_norm_that_moves_is_planned_with_its_cost(model: str, engine: str) -> None:
    """It costs no more epsilon, and leaves more noise on updates: at most 15.5 per cent."""
    asked = {"model": model, "noise_multiplier": 0.8, "adaptive_clip": {"quantile": 0.4}}
    job = training(asked, engine=engine, update={"clip_norm": 3.0})
    fixed = training({"model": model, "noise_multiplier": 0.8}, engine=engine, update={"clip_norm": 3.0})
    assert terms_of(job).epsilon == terms_of(fixed).epsilon
    assert terms_of(job).adaptive_clip == AdaptiveClip(quantile=0.4, rate=0.2, start=3.0)
    assert "moves from 3 to the 0.4 quantile" in terms_sentence(terms_of(job).model_dump())
    plan, before = plan_of(job), plan_of(fixed)
    assert (before.clipping, plan.deviation) == (None, before.deviation)
    assert plan.clipping is not None
    assert plan.clipping.update_noise == pytest.approx(0.8 * 2 / math.sqrt(3)), "three sites cannot have n / 20"
    assert plan.mean_noise == pytest.approx(before.mean_noise * 2 / math.sqrt(3))  # type: ignore[operator]
    draws = {"distributed": 1.0, "server": 2.0, "local": 3.0}[model]
    assert plan.clipping.share_noise == pytest.approx(0.8 * math.sqrt(draws) / 3)


def test_an_exact_job_has_no_terms() -> None:
    assert training({}).resolved.privacy is None
    assert training({"model": "none"}).resolved.privacy is None


@pytest.mark.parametrize(
    ("privacy", "changes", "paths"),
    [
        ({"model": "server", "epsilon": 1}, {}, {"/privacy/model": "no server adds noise"}),
        ({"model": "distributed", "epsilon": 1}, {"engine": "sealed"}, {"/privacy/model": "pairwise"}),
        ({"model": "local", "epsilon": 1}, {"engine": "twoserver"}, {"/privacy/model": "proves an update's norm"}),
        ({"model": "record", "epsilon": 0, "unit": "site"}, {}, {"/privacy/epsilon": "greater than 0"}),
        ({"model": "record", "epsilon": 1, "unit": "site"}, {}, {"/privacy/unit": "a record"}),
        ({"model": "record", "epsilon": 1, "delta": 1 / 900}, {}, {"/privacy/delta": "less than 1/900"}),
        ({"model": "record", "noise_multiplier": 0.001}, {}, {"/privacy/noise_multiplier": "bounds nothing"}),
        (
            {"model": "record", "epsilon": 1, "delta": 0.1},
            {"strategy": {"weighting": "examples"}},
            {"/privacy/delta": "less than", "/strategy/weighting": "equal"},
        ),
        ({"model": "record", "epsilon": 1, "clip_norm": 0}, {}, {"/privacy/clip_norm": "greater than 0"}),
        ({"model": "distributed", "epsilon": 1, "clip_norm": 1}, {}, {"/privacy/clip_norm": "update.clip_norm"}),
        ({"model": "distributed", "epsilon": 0}, {}, {"/privacy/epsilon": "greater than 0"}),
        ({"model": "distributed", "epsilon": -1}, {}, {"/privacy/epsilon": "greater than 0"}),
        ({"model": "distributed", "epsilon": math.inf}, {}, {"/privacy/epsilon": ""}),
        ({"model": "distributed", "epsilon": 1, "noise_multiplier": 1}, {}, {"/privacy": "one of them"}),
        ({"model": "distributed"}, {}, {"/privacy": "one of them"}),
        ({"epsilon": 1}, {}, {"/privacy/model": "exact"}),
        ({"model": "distributed", "epsilon": 1, "delta": 0.4}, {}, {"/privacy/delta": "less than 1/3"}),
        ({"model": "distributed", "epsilon": 1, "delta": 1e-300}, {}, {"/privacy/delta": "at least 1e-12"}),
        ({"model": "distributed", "epsilon": 1, "unit": "record"}, {}, {"/privacy/unit": "a site"}),
        (
            {"model": "local", "epsilon": 1},
            {"update": {"clip_norm": 5e-324}},
            {"/update/modulus_bits": "too small to be divided into steps"},
        ),
        ({"adaptive_clip": {}}, {}, {"/privacy/adaptive_clip": "name who adds noise"}),
        ({"model": "record", "epsilon": 1, "adaptive_clip": {}}, {}, {"/privacy/adaptive_clip": "leave it out"}),
        ({"model": "distributed", "epsilon": 1, "adaptive_clip": {}}, {}, {"/privacy/adaptive_clip": "more than ±0.5"}),
        (
            {"model": "distributed", "noise_multiplier": 1, "adaptive_clip": {"quantile": 1.0, "rate": 0}},
            {},
            {"/privacy/adaptive_clip/quantile": "less than 1", "/privacy/adaptive_clip/rate": "greater than 0"},
        ),
        (
            {"model": "distributed", "noise_multiplier": 1, "adaptive_clip": {}},
            {"update": {}},
            {"/update/clip_norm": "L2 norm"},
        ),
        ({"model": "distributed", "epsilon": 1, "colluding": 3}, {}, {"/privacy/colluding": "honest"}),
        ({"model": "distributed", "epsilon": 1e-5}, {}, {"/privacy/epsilon": "larger epsilon or fewer rounds"}),
        ({"model": "distributed", "noise_multiplier": 0.001}, {}, {"/privacy/noise_multiplier": "bounds nothing"}),
        ({"model": "distributed", "epsilon": 1, "clip": 2}, {}, {"/privacy/clip": "no such field"}),
        (
            {"model": "distributed", "epsilon": 1, "delta": 0.9},
            {"update": {}, "strategy": {"name": "fedavg"}, "engine": "sealed"},
            {
                "/privacy/delta": "1/3",
                "/privacy/model": "not hidden",
                "/update/clip_norm": "L2 norm",
                "/strategy/weighting": "equal",
            },
        ),
        (
            {"model": "distributed", "epsilon": 1},
            {"update": {"clip_norm": 1.0, "modulus_bits": 16}, "rounds": 1000},
            {"/update/modulus_bits": "raise modulus_bits"},
        ),
    ],
)
def test_what_no_noise_can_be_planned_for_is_refused_with_all_faults(
    privacy: dict[str, Any], changes: dict[str, Any], paths: dict[str, str]
) -> None:
    with pytest.raises(JobInvalid) as found:
        training(privacy, **changes)
    said = faults(found)
    assert said.keys() == paths.keys()
    for path, words in paths.items():
        assert words in said[path]


def test_what_of_a_private_job_stays_exact_is_told() -> None:
    job = judge({**TRAIN, "privacy": {"model": "distributed", "epsilon": 4.0}}, WORLD)
    told = {warning.path: warning.message for warning in job.warnings}
    assert "set it to 0" in told["/evaluation/every"]
    assert "exact sums" in told["/recipe"]


def test_declared_ranges_leave_no_exact_sums() -> None:
    """A private job that says its columns' ranges asks for no statistics, and is not warned; mistakes have a path."""

    def planned(**ranges: list[float]) -> ValidJob:
        recipe = {**TRAIN["recipe"], "params": {**TRAIN["recipe"]["params"], "ranges": ranges}}
        return training({"model": "distributed", "epsilon": 4.0}, recipe=recipe)

    assert any("params.ranges" in each.message for each in training({"model": "distributed", "epsilon": 4.0}).warnings)
    job = planned(age=[0, 120])
    assert not job.warnings
    assert isinstance(job.spec, JobSpec)
    assert not standardises(job.resolved.recipe, job.spec.recipe.params)
    for ranges, path, said in (
        ({"agge": [0, 1], "age": [0, 1]}, "/recipe/params/ranges/agge", "age"),
        ({"age": [1, 1]}, "/recipe/params/ranges/age", "less than"),
        ({"age": [0, 1], "disease": [0, 1]}, "/recipe/params/ranges/disease", "no number"),
        ({"sex": [0, 1]}, "/recipe/params/ranges", "age"),
        ({"age": [0]}, "/recipe/params/ranges/age", "short"),
    ):
        with pytest.raises(JobInvalid) as found:
            planned(**ranges)
        assert said in faults(found)[path]


def test_statistics_for_whole_sites_are_refused_with_what_helps() -> None:
    noise = {"model": "distributed", "epsilon": 1.0, "unit": "site"}
    with pytest.raises(JobInvalid) as found:
        judge_statistics({**ASK, "queries": BOUNDED, "privacy": noise}, WORLD)
    (error,) = found.value.errors
    assert error.path == "/privacy/unit"
    assert "epsilon / k for a record" in error.message


def test_private_statistics_are_of_records_and_bounded() -> None:
    job = judge_statistics({**ASK, "queries": BOUNDED, "privacy": {"model": "distributed", "epsilon": 1.0}}, WORLD)
    terms = terms_of(job)
    assert (terms.unit, terms.rounds) == (PrivacyUnit.RECORD, 1)
    assert terms.epsilon <= 1.0


def test_any_noise_fits_any_number_of_statistics() -> None:
    """Whatever can be asked for can be drawn: refusals belong to the section's own fields."""
    many = [{"query": "histogram", "column": "age", "range": [0, 100 + at], "bins": 1000} for at in range(40)]
    for noise in (0.5, 1e4):
        asked = {**ASK, "queries": many, "privacy": {"model": "local", "noise_multiplier": noise}}
        assert terms_of(judge_statistics(asked, WORLD)).noise_multiplier == noise


def test_statistics_that_nothing_bounds_are_refused_with_the_remedy() -> None:
    with pytest.raises(JobInvalid) as found:
        judge_statistics({**ASK, "privacy": {"model": "distributed", "epsilon": 1.0, "delta": 0.01}}, WORLD)
    said = faults(found)
    assert "give ranges" in said["/queries/0"]
    assert "no regression with noise" in said["/queries/2"]
    assert "give the range of age" in said["/queries/3"]
    assert "/queries/1" not in said, "a table of categories is bounded"
    assert "less than 1/900" in said["/privacy/delta"], "of the rows of all sites"


def test_where_sites_do_not_tell_their_rows_delta_is_less_than_one_of_the_sites() -> None:
    profile = PROFILE.model_copy(update={"datasets": (DATASETS[0].model_copy(update={"rows": None}),)})
    silent = replace(WORLD, sites=[replace(site, profile=profile) for site in WORLD.sites])
    asked = {**ASK, "queries": BOUNDED, "privacy": {"model": "distributed", "epsilon": 1.0, "delta": 0.9}}
    with pytest.raises(JobInvalid) as found:
        judge_statistics(asked, silent)
    assert "less than 1/3" in faults(found)["/privacy/delta"]
    job = judge_statistics({**asked, "privacy": {"model": "distributed", "epsilon": 1.0}}, silent)
    assert "how many rows" in {warning.path: warning.message for warning in job.warnings}["/privacy/delta"]


@pytest.mark.parametrize("kind", ["quantiles", "histogram", "variance"])
@pytest.mark.parametrize("given", [[5, 1], [1, 1], [0, 5e-324]])
def test_a_range_without_a_width_is_refused(kind: str, given: list[float]) -> None:
    query = {"query": kind, "columns": ["age"], "ranges": {"age": given}}
    if kind != "variance":
        query = {"query": kind, "column": "age", "range": given}
    asked = {**ASK, "queries": [query], "privacy": {"model": "distributed", "epsilon": 1.0}}
    with pytest.raises(JobInvalid) as found:
        judge_statistics(asked, WORLD)
    assert "must rise" in faults(found)["/queries/0"]


def test_a_plan_says_what_noise_costs_and_which_other_would() -> None:
    plan = plan_of(training({"model": "distributed", "epsilon": 4.0}, rounds=20))
    assert plan.terms is not None
    noises = [point.noise_multiplier for point in plan.over_noise]
    shown = [f"{point.epsilon:.3g}" for point in plan.over_noise]
    assert len(set(shown)) == len(shown), "the job's own epsilon is there once"
    assert noises == sorted((noise for noise in noises if noise is not None), reverse=True), "less noise costs more"
    costs = [point.epsilon for point in plan.over_rounds]
    assert costs == sorted(cost for cost in costs if cost is not None)
    assert plan.participation is not None
    assert "saves nothing" in plan.participation.advice
    assert plan.deviation == pytest.approx(plan.terms.noise_multiplier)
    exact = plan_of(training({}))
    assert exact.terms is None
    assert exact.over_noise


@pytest.mark.parametrize(
    ("rounds", "separation", "plain", "banded"), [(100, 100, 7.1, 2.4), (100, 20, 15.9, 5.8), (400, 40, 44.8, 11.1)]
)
def test_the_matrix_mechanism_saves_what_was_measured(
    rounds: int, separation: int, plain: float, banded: float
) -> None:
    assert saving_of(rounds, separation) == pytest.approx(plain / banded, rel=0.03)
    assert saving_of(rounds, 1) == 1.0


def test_noise_inside_a_recipe_is_calibrated_from_the_smallest_sites_rows() -> None:
    """All sites promise the same: epochs 2 in batches of 30 of 300 rows are 20 steps with a probability of 0.1."""
    params = {**TRAIN["recipe"]["params"], "batch_size": 30}
    job = training(
        {"model": "record", "epsilon": 2.0, "delta": 1e-5, "clip_norm": 0.5},
        rounds=10, recipe={"name": "tabular", "params": params}, update={}, engine="sealed",
    )  # fmt: skip
    terms = terms_of(job)
    assert terms.steps == NoisySteps(count=20, probability=0.1, clip_norm=0.5)
    assert terms.unit is PrivacyUnit.RECORD
    assert 1.98 < terms.epsilon <= 2.0
    cost = PoissonGaussianEvent(noise_multiplier=terms.noise_multiplier, probability=0.1, count=200)
    assert epsilon_of([cost], 1e-5) == terms.epsilon
    assert train_encoding(3, cast("JobSpec", job.spec), terms) == train_encoding(3, cast("JobSpec", job.spec))
    plan = plan_of(job)
    assert plan.deviation is None
    assert plan.participation is None
    assert [point.epsilon for point in plan.over_rounds] == sorted(point.epsilon or 0 for point in plan.over_rounds)
    assert "20 steps a round" in terms_sentence(terms.model_dump(mode="json"))


def test_the_published_pair_of_noise_inside_a_recipe() -> None:
    """A batch of 256 of 60,000 rows, sixty epochs in a round: the pair of the library's own tutorial."""
    steps = NoisySteps(count=14_063, probability=256 / 60_000, clip_norm=1.0)
    assert f"{epsilon_of([expected_event(PrivacyModel.RECORD, 1.1, 1, steps)], 1e-5):.3f}" == "2.382"


def test_small_batches_of_a_small_site_are_all_its_rows() -> None:
    profile = PROFILE.model_copy(update={"datasets": (DATASETS[0].model_copy(update={"rows": 20}),)})
    small = replace(WORLD, sites=[replace(WORLD.sites[0], profile=profile), *WORLD.sites[1:]])
    document = {**TRAIN, "evaluation": EVALUATION, "privacy": {"model": "record", "epsilon": 2.0}}
    steps = terms_of(judge(document, small)).steps
    assert steps == NoisySteps(count=2, probability=1.0, clip_norm=1.0)


def test_what_cannot_protect_records_is_refused() -> None:
    recipe = load_recipe("null").spec
    named = recipe.model_copy(update={"params_schema": {"properties": {"epochs": {"default": 1}}}, "record_params": {}})
    grouped = load_recipe("image").spec
    cases: list[tuple[RecipeSpec, list[int | None], dict[str, str]]] = [
        (recipe, [10, 20], {"/privacy/model": "adds no noise as it trains"}),
        (named, [10, 20], {"/privacy/model": "epochs and batch_size"}),
        (named, [10, None], {"/privacy/model": "how many rows"}),
        (named, [], {"/privacy/model": "how many rows"}),
        (grouped, [10], {"/recipe/params/normalisation": "to protect records, 'auto' is not a choice here"}),
        (
            load_recipe("tabular").spec,
            [10**12],
            {"/recipe/params/batch_size": "larger batches, fewer epochs or fewer rounds"},
        ),
    ]
    for spec, rows, wanted in cases:
        findings = Findings()
        asked = PrivacyPart(model="record", epsilon=1.0)
        assert settle_steps(asked, spec, {}, rows, 1, findings) is None
        assert [error.path for error in findings.errors] == list(wanted)
        assert all(text in error.message for error, text in zip(findings.errors, wanted.values(), strict=True))
    assert settle_steps(asked, grouped, {"normalisation": "group"}, [10], 1, Findings()) is not None
    with pytest.raises(JobInvalid) as found:
        judge_statistics({**ASK, "queries": BOUNDED, "privacy": {"model": "record", "epsilon": 1.0}}, WORLD)
    assert "as it trains" in faults(found)["/privacy/model"]
