"""Sites that take turns: never nearer than the noise is correlated, and a job that cannot keep it is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis.strategies import integers, sets

from tests.effort import examples
from tests.services.coordinator.domain.test_validation_names import ASK, PROFILE, TRAIN, WORLD
from undersong.services.coordinator.domain.findings import JobInvalid
from undersong.services.coordinator.domain.privacy_plan import plan_of
from undersong.services.coordinator.domain.progress import Progress
from undersong.services.coordinator.domain.sites import SiteFacts
from undersong.services.coordinator.domain.statistics import judge_statistics
from undersong.services.coordinator.domain.turns import NoiseRowsSpent, in_turn, row_of, turn_size
from undersong.services.coordinator.domain.validation import ValidJob, judge
from undersong.shared.ids import SiteId
from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.wire.manifest import RoundKind
from undersong.shared.wire.privacy import CorrelatedNoise, GaussianEvent, terms_sentence

EXAMPLE = Path(__file__).parents[4] / "examples" / "hospital" / "private-turns.yaml"
MANY = replace(WORLD, sites=[SiteFacts(SiteId(f"site_{at:02}"), f"site-{at}", True, PROFILE) for at in range(20)])
NOISE = {"model": "server", "mechanism": "matrix", "separation": 5, "epsilon": 4.0, "delta": 1e-5}


def job(noise: dict[str, Any] | None = None, **changes: Any) -> ValidJob:
    """The verdict on a job of twenty sites, three at least in a round."""
    given = {"engine": "twoserver", "rounds": 50, "evaluation": {"every": 0}, "cohort": {"min": 3}, **changes}
    return judge({**TRAIN, **given, "privacy": {**NOISE, **(noise or {})}}, MANY)


def test_a_job_of_turns_is_calibrated_for_one_sites_turns() -> None:
    terms = job().resolved.privacy
    assert terms is not None
    assert terms.correlated == CorrelatedNoise(separation=5, participations=10)
    cost = GaussianEvent(noise_multiplier=terms.noise_multiplier, count=10)
    assert epsilon_of([cost], 1e-5) == terms.epsilon <= 4.0
    plain = job({"mechanism": "independent", "separation": None}).resolved.privacy
    assert plain is not None
    assert plain.noise_multiplier == pytest.approx(terms.noise_multiplier * 5**0.5), "fifty rounds instead of ten"
    assert "turns of 5 rounds" in terms_sentence(terms.model_dump(mode="json"))


def test_the_example_is_for_sixty_sites_and_has_less_noise_than_without_turns() -> None:
    """Its parts as they are, over the columns that this test's sites have."""
    example: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    asked = {**TRAIN, **{part: example[part] for part in example.keys() - {"data", "recipe"}}}
    sites = [SiteFacts(SiteId(f"site_{at:02}"), f"site-{at}", True, PROFILE) for at in range(60)]
    found = plan_of(judge(asked, replace(WORLD, sites=sites)))
    assert found.participation is not None
    assert (found.participation.sites, found.participation.separation, found.participation.participations) == (3, 20, 5)
    with pytest.raises(JobInvalid) as refused:
        judge(asked, MANY)
    assert [error.path for error in refused.value.errors] == ["/privacy/separation"]


@pytest.mark.parametrize(
    ("noise", "changes", "path", "said"),
    [
        ({"separation": 7}, {}, "/privacy/separation", "at most 6 with 20 sites"),
        ({"separation": None}, {}, "/privacy/separation", "at most 6 with 20 sites"),
        ({"separation": 6}, {"rounds": 4}, "/privacy/separation", "at most rounds, which is 4"),
        ({"mechanism": "independent"}, {}, "/privacy/separation", "mechanism: matrix alone"),
        ({"model": "distributed"}, {"engine": "pairwise"}, "/privacy/mechanism", "set model: server"),
        ({"model": "none", "epsilon": None}, {}, "/privacy/mechanism", "set model: server"),
        ({}, {"engine": "pairwise"}, "/privacy/model", "no server adds noise"),
        ({}, {"cohort": {"min": 3, "fraction": 0.5}}, "/cohort/fraction", "leave it out"),
        ({"separation": 6}, {"rounds": 2048}, "/rounds", "at most 2048"),
        ({"adaptive_clip": {}}, {}, "/privacy/adaptive_clip", "one clip norm"),
        ({}, {"cohort": {"min": 11}}, "/privacy/separation", "at least twice as many sites"),
    ],
)
def test_a_job_that_cannot_keep_its_turns_is_refused(
    noise: dict[str, Any], changes: dict[str, Any], path: str, said: str
) -> None:
    with pytest.raises(JobInvalid) as found:
        job(noise, **changes)
    faults = {error.path: error.message for error in found.value.errors}
    assert said in faults[path], faults


def test_statistics_take_no_turns() -> None:
    with pytest.raises(JobInvalid) as found:
        judge_statistics({**ASK, "engine": "twoserver", "privacy": NOISE}, WORLD)
    assert any("statistics have one round" in error.message for error in found.value.errors)


def test_the_plan_says_what_turns_save() -> None:
    found = plan_of(job()).participation
    assert found is not None
    assert (found.sites, found.separation, found.participations) == (4, 5, 10)
    assert found.saving > 1.5
    assert f"{found.saving:.1f} times smaller" in found.advice
    advised = plan_of(job({"mechanism": "independent", "separation": None}, cohort={"min": 3, "fraction": 0.2}))
    assert advised.participation is not None
    assert "privacy.separation: 5" in advised.participation.advice


@settings(max_examples=examples(40), deadline=None)
@given(integers(2, 9), integers(0, 40), sets(integers(0, 60), max_size=20), integers(1, 60), integers(0, 9))
def test_every_site_has_one_turn_in_as_many_rows(
    separation: int, eligible: int, late: set[int], first: int, seed: int
) -> None:
    """Also a site that joined since; in any window of rows each candidate comes once, so never nearer."""
    known = [SiteId(f"site_{at:02}") for at in range(eligible)]
    candidates = sorted({*known, *(SiteId(f"site_{at:02}") for at in late)})
    noise = CorrelatedNoise(separation=separation, participations=9)
    turns = [in_turn(candidates, known, noise, row, seed) for row in range(first, first + separation)]
    assert sorted(site for turn in turns for site in turn) == candidates
    assert turns[0] == in_turn(candidates, known, noise, first + separation, seed)
    sizes = [len([site for site in turn if site in known]) for turn in turns]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= turn_size(max(1, eligible), separation, None)


def test_rows_count_rounds_that_train_and_those_that_were_lost() -> None:
    done = Progress().settle(RoundKind.STATISTICS).settle(RoundKind.INITIALISE)
    assert done.row == 1
    trained = done.settle(RoundKind.TRAIN).settle(RoundKind.EVALUATE)
    assert (trained.row, trained.settled) == (2, 4)
    lost = trained.leave(RoundKind.TRAIN)
    assert (lost.row, lost.leave(RoundKind.EVALUATE).row) == (3, 3)
    terms = job().resolved.privacy
    assert row_of(terms, 50) == 50
    assert row_of(None, 50) is None
    with pytest.raises(NoiseRowsSpent):
        row_of(terms, 51)
