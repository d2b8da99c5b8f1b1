"""What a round costs follows from its manifest, and only a round that keeps its terms has a cost."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis.strategies import floats, integers, sampled_from

from tests.effort import examples
from tests.shared.wire.manifests import manifest
from undersong.shared.errors import Refusal
from undersong.shared.privacy import noise as sampler
from undersong.shared.privacy import toeplitz
from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.secagg.private import (
    MAX_SIGMA,
    event_of,
    noise_of_server,
    noise_of_site,
    noise_of_sum,
    noise_reach,
    plan_noisy,
    sensitivity,
)
from undersong.shared.secagg.quantise import OutOfRange, plan_norm, plan_sums
from undersong.shared.wire.manifest import Encoding, RoundKind, RoundManifest
from undersong.shared.wire.privacy import (
    CorrelatedNoise,
    GaussianEvent,
    NonPrivateEvent,
    PoissonGaussianEvent,
    PrivacyModel,
    PrivacyTerms,
    PrivacyUnit,
    ZeroConcentratedEvent,
)

LENGTH = 1000


def private(model: str, noise: float = 2.0, engine: str = "pairwise", **changes: Any) -> RoundManifest:
    """A training round of three sites with noise of this model."""
    terms = {
        "model": model,
        "unit": "record" if model == "record" else "site",
        "noise_multiplier": noise,
        "delta": 1e-6,
        "epsilon": 1.0,
        "rounds": 1,
        "min_sites": 2,
    }
    if model == "record":
        terms["steps"] = {"count": 40, "probability": 0.1, "clip_norm": 1.0}
    return manifest(engine=engine, privacy=terms, **{"encoding": CLIPPED, **changes})


def terms(model: str, noise: float, sites: int) -> PrivacyTerms:
    """Terms of a round with this many sites at least."""
    return PrivacyTerms(
        model=PrivacyModel(model),
        unit=PrivacyUnit.SITE,
        noise_multiplier=noise,
        delta=1e-6,
        epsilon=1,
        rounds=1,
        min_sites=sites,
    )


CLIPPED = plan_noisy(summands=3, clip_norm=1.0, modulus_bits=32, terms=terms("local", 2.0, 2))


@settings(max_examples=examples(200), deadline=None)
@given(
    model=sampled_from(["server", "distributed", "local"]),
    noise=floats(0.01, 2000),
    sites=integers(2, 500),
    bits=sampled_from([16, 24, 32, 64]),
    length=integers(1, 2**20),
)
def test_what_is_planned_has_room_for_its_noise(model: str, noise: float, sites: int, bits: Any, length: int) -> None:
    """Every plan that is not refused at submission can be carried out, except vectors too long for a coarse grid."""
    asked = terms(model, noise, sites)
    try:
        encoding = plan_noisy(summands=sites, clip_norm=2.0, modulus_bits=bits, terms=asked)
    except Refusal:
        assert bits < 64 or noise / math.sqrt(sites) < 1e-5 or noise > 1e5
        return
    cohort = tuple(sorted(f"site_{number:04}" for number in range(sites)))
    engine = {"server": "twoserver", "distributed": "pairwise", "local": "sealed"}[model]
    made = manifest(engine=engine, encoding=encoding, cohort=cohort, min_cohort=sites, target=sites, privacy=asked)
    if length > encoding.bound**2:
        return
    assert event_of(made, length) is not None
    widest = sites * encoding.bound + noise_reach(made, length, sites)
    assert widest < 1 << (bits - 1)
    assert max(noise_of_site(made, length), noise_of_server(made, length)) <= MAX_SIGMA


def correlated(noise: float, sites: int, separation: int, times: int) -> PrivacyTerms:
    """Terms of a job whose sites take turns."""
    turns = CorrelatedNoise(separation=separation, participations=times)
    return terms("server", noise, sites).model_copy(update={"correlated": turns, "rounds": turns.rows})


@settings(max_examples=examples(60), deadline=None)
@given(
    noise=floats(0.01, 500), sites=integers(2, 300), separation=integers(2, 64), times=integers(1, 9), data=integers(0)
)
def test_correlated_noise_has_room_in_every_row_and_costs_a_participation(
    noise: float, sites: int, separation: int, times: int, data: int
) -> None:
    asked = correlated(noise, sites, separation, times)
    encoding = plan_noisy(summands=sites, clip_norm=2.0, modulus_bits=64, terms=asked)
    cohort = tuple(sorted(f"site_{number:04}" for number in range(sites)))
    row = 1 + data % (separation * times)
    made = manifest(
        engine="twoserver", encoding=encoding, cohort=cohort, min_cohort=sites, target=sites, privacy=asked,
        noise_row=row,
    )  # fmt: skip
    assert event_of(made, LENGTH) == GaussianEvent(noise_multiplier=noise, row=row)
    assert sites * encoding.bound + noise_reach(made, LENGTH, sites) < 1 << 63
    drawn = noise_of_server(made, LENGTH)
    assert drawn <= MAX_SIGMA
    moved = toeplitz.norm(separation) * sensitivity(encoding, RoundKind.TRAIN, LENGTH)
    assert drawn == pytest.approx(noise * moved), "z is noise multipliers times what one participation moves"
    assert noise_of_sum(made, LENGTH, sites) >= math.sqrt(2) * drawn * (1 - 1e-9)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"noise_row": None}, "has rows"),
        ({"noise_row": 13}, "beyond"),
        ({"privacy": None}, "has rows"),
        ({"kind": RoundKind.STATISTICS, "encoding": plan_sums(summands=3), "model": None}, "site|records|train"),
    ],
)
def test_a_manifest_whose_row_is_not_one_of_its_noise_is_none(changes: dict[str, Any], said: str) -> None:
    given = {"engine": "twoserver", "encoding": CLIPPED, "privacy": correlated(2.0, 2, 4, 3), "noise_row": 12}
    assert manifest(**given).noise_row == 12
    with pytest.raises(ValueError, match=said):
        manifest(**{**given, **changes})


@pytest.mark.parametrize(
    ("kind", "cost"),
    [
        (RoundKind.INITIALISE, None),
        (RoundKind.TRAIN, NonPrivateEvent()),
        (RoundKind.EVALUATE, NonPrivateEvent()),
        (RoundKind.STATISTICS, NonPrivateEvent()),
    ],
)
def test_a_round_without_noise_is_exact_unless_it_uses_no_data(kind: RoundKind, cost: object) -> None:
    assert event_of(manifest(kind), LENGTH) == cost


def test_servers_and_local_noise_cost_one_gaussian() -> None:
    server = private("server", engine="twoserver", encoding=plan_norm(summands=3, clip_norm=1.0))
    assert event_of(server, LENGTH) == GaussianEvent(noise_multiplier=2.0)
    assert noise_of_server(server, LENGTH) == 2.0 * sensitivity(server.encoding, RoundKind.TRAIN, LENGTH)  # type: ignore[arg-type]
    for engine in ("pairwise", "sealed"):
        assert event_of(private("local", engine=engine), LENGTH) == GaussianEvent(noise_multiplier=2.0)


def test_distributed_noise_costs_as_much_as_a_gaussian_of_the_minimum_cohort() -> None:
    made = private("distributed")
    event = event_of(made, LENGTH)
    assert isinstance(event, ZeroConcentratedEvent)
    assert event.rho == pytest.approx(1 / (2 * 2.0**2))
    assert epsilon_of([event], 1e-6) >= epsilon_of([GaussianEvent(noise_multiplier=2.0)], 1e-6)
    site = noise_of_site(made, LENGTH)
    assert noise_of_sum(made, LENGTH, 2) == pytest.approx(math.sqrt(2) * site)
    assert noise_of_site(private("local"), LENGTH) == pytest.approx(math.sqrt(2) * site)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (private("server"), "no server adds noise"),
        (private("distributed", engine="sealed"), "not hidden in the sum"),
        (
            private("local", engine="twoserver", encoding=plan_norm(summands=3, clip_norm=1.0)),
            "proves an update's norm",
        ),
        (private("distributed", encoding=manifest().encoding), "same weight"),
        (private("record", encoding=manifest().encoding), "same weight"),
        (private("distributed", encoding=CLIPPED.model_copy(update={"clip_norm": None})), "clip norm"),
        (private("distributed", encoding=CLIPPED.model_copy(update={"bound": 3, "scale": 3.0}), noise=0.05), "4"),
        (private("distributed", noise=500.0), "more than can be drawn"),
        (
            private("server", 0.05, "twoserver", encoding=CLIPPED.model_copy(update={"bound": 3, "scale": 3.0})),
            "steps of the grid, fewer than 4",
        ),
        (private("local", encoding=CLIPPED.model_copy(update={"modulus_bits": 24})), "raise update.modulus_bits"),
    ],
)
def test_a_round_that_cannot_keep_its_terms_has_no_cost(made: RoundManifest, says: str) -> None:
    with pytest.raises(Refusal, match=says):
        event_of(made, LENGTH)


def test_noise_on_sums_of_other_recipes_than_statistics_bounds_nothing() -> None:
    """What one record changes is known of the sums that the statistics recipe makes, and of no other's."""
    asked = {**terms("local", 2.0, 2).model_dump(), "unit": "record"}
    room = CLIPPED.model_copy(update={"clip_norm": None})
    made = manifest(RoundKind.STATISTICS, engine="pairwise", privacy=asked, encoding=room, length=LENGTH)
    with pytest.raises(Refusal, match="recipe null"):
        event_of(made, LENGTH)
    named = made.recipe.model_copy(update={"name": "statistics"})
    assert event_of(made.model_copy(update={"recipe": named}), LENGTH) == GaussianEvent(noise_multiplier=2.0)
    with pytest.raises(ValueError, match="to no statistics"):
        private("record", kind=RoundKind.STATISTICS)


def test_a_recipe_that_promises_noise_is_not_taken_at_its_word() -> None:
    steps = PoissonGaussianEvent(noise_multiplier=2.0, probability=0.1, count=40)
    assert event_of(private("record"), LENGTH) == steps
    assert noise_of_sum(private("record"), LENGTH, 3) == 0.0, "the recipe has added it"


@pytest.mark.parametrize("kind", [RoundKind.EVALUATE, RoundKind.INITIALISE])
def test_rounds_that_add_no_noise_have_no_terms(kind: RoundKind) -> None:
    with pytest.raises(ValueError, match="only a round that trains"):
        manifest(kind, privacy=private("local").privacy)


def test_statistics_are_not_charged_as_noisy_steps_of_training() -> None:
    """Their sums would be exact, and the charge that of the steps."""
    with pytest.raises(ValueError, match="to no statistics"):
        manifest(RoundKind.STATISTICS, privacy=private("record").privacy, length=4)


def test_the_widest_noise_is_the_samplers() -> None:
    assert sampler.MAX_SIGMA == MAX_SIGMA


def test_a_grid_without_end_is_refused_and_not_a_crash() -> None:
    """Every number in the manifest is finite, and their product is not."""
    encoding = Encoding(modulus_bits=32, max_summands=3, bound=2**20, scale=1e300, max_weight=1, clip_norm=1e300)
    with pytest.raises(OutOfRange, match="more than can be counted"):
        sensitivity(encoding, RoundKind.TRAIN, 10)
