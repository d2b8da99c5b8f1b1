"""What a job does next."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undersong.services.coordinator.domain.cohort import CohortRule, choose, derive_seed
from undersong.services.coordinator.domain.progress import (
    MAX_ATTEMPTS_PER_STEP,
    EarlyStop,
    Finished,
    JobState,
    Plan,
    Progress,
    Stalled,
    Step,
    next_question,
    next_step,
    should_stop,
)
from undersong.shared.ids import SiteId
from undersong.shared.wire.manifest import RoundKind


def run(plan: Plan, score: float = 0.5) -> list[str]:
    """The steps of a job in which every round succeeds."""
    progress, steps = Progress(), []
    while True:
        step = next_step(plan, progress)
        if isinstance(step, Finished):
            return [*steps, f"{step.state}:{step.reason}"]
        steps.append(f"{step.kind}{step.number}")
        done = {
            "statistics_done": progress.statistics_done or step.kind is RoundKind.STATISTICS,
            "has_model": progress.has_model or step.kind is RoundKind.INITIALISE,
            "trained": step.number if step.kind is RoundKind.TRAIN else progress.trained,
            "evaluated": step.number if step.kind is RoundKind.EVALUATE else progress.evaluated,
            "scores": (*progress.scores, {"auc": score}) if step.kind is RoundKind.EVALUATE else progress.scores,
        }
        progress = Progress(**done)


def test_a_job_counts_makes_a_model_trains_and_measures() -> None:
    """Statistics first, then the first model, then training, measured every second round and at the end."""
    assert run(Plan(rounds=3, statistics=True, evaluate_every=2)) == [
        "statistics0",
        "initialise0",
        "train1",
        "train2",
        "evaluate2",
        "train3",
        "evaluate3",
        "succeeded:completed",
    ]


def test_early_stop_ends_a_job_that_no_longer_improves() -> None:
    """With a constant score and a patience of 2, the third evaluation is the last."""
    plan = Plan(rounds=10, statistics=False, evaluate_every=1, early_stop=EarlyStop("auc", "max", 2))
    assert run(plan)[-2:] == ["evaluate3", "succeeded:early-stop"]


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([0.7, 0.6, 699.0], False),
        ([0.7, 0.6, 701.0], True),
        ([0.0, 0.9], False),
        ([0.0, 1.1], True),
        ([136_000.0, 900_000.0], False),
        ([136_000.0, 1_073_741.824], True),
        ([1_073_741.824, 1_073_741.824], False),  # a loss in other units, of which nothing can be said
        ([-5.0, -4.0], False),
        ([None, None, 3.0, None, 4.0], False),
        ([None, 3.0, 4000.0], True),
    ],
)
def test_a_loss_beyond_all_measure_ends_the_job(losses: list[float | None], diverged: bool) -> None:
    progress = Progress(has_model=True)
    for loss in losses:
        progress = progress.lost(loss)
    ends = next_step(Plan(rounds=9, statistics=False), progress)
    assert (ends == Finished(JobState.FAILED, "diverged")) == diverged


def test_a_step_that_keeps_failing_pauses_the_job_with_the_last_reason() -> None:
    """Every attempt but the last is tried again; after the last the job stalls, and a resumed one has all attempts."""
    plan = Plan(rounds=1, statistics=False)
    tried = Progress(has_model=True, failures=MAX_ATTEMPTS_PER_STEP - 1)
    assert next_step(plan, tried) == Step(RoundKind.TRAIN, 1, MAX_ATTEMPTS_PER_STEP)
    spent = replace(tried, failures=MAX_ATTEMPTS_PER_STEP)
    assert next_step(plan, spent, "quorum") == Stalled("quorum")
    assert next_question(spent, "quorum") == Stalled("quorum")
    resumed = replace(spent, excused=spent.failures)
    assert next_step(plan, resumed) == Step(RoundKind.TRAIN, 1, MAX_ATTEMPTS_PER_STEP + 1)


def test_attempts_rest_longer_each_time_and_a_done_step_forgets_them() -> None:
    """No rest after the first failure, so that one drop-out costs nothing; then seconds to two minutes."""
    rests = [Progress(failures=n).rest.total_seconds() for n in range(MAX_ATTEMPTS_PER_STEP)]
    assert rests == [0, 0, 2, 4, 8, 16, 32, 64, 120, 120]
    assert Progress(failures=12, excused=11).rest.total_seconds() == 0
    settled = Progress(failures=3, excused=1, unable={SiteId("site_a"): "recipe-error"}, settled=4).settle(
        RoundKind.TRAIN
    )
    assert settled == Progress(settled=5)


@given(st.lists(st.floats(0, 1), max_size=20), st.integers(1, 5), st.sampled_from(["min", "max"]))
def test_early_stop_waits_for_its_patience(values: list[float], patience: int, mode: str) -> None:
    """It never stops while the best score is younger than the patience."""
    rule = EarlyStop("m", mode, patience)
    stops = should_stop(rule, [{"m": value} for value in values])
    if values:
        best = (min if mode == "min" else max)(values)
        age = len(values) - 1 - values.index(best)
        assert stops == (age >= patience and len(values) > patience)
    else:
        assert not stops


@given(
    st.sets(st.text("abcdef", min_size=1, max_size=4), max_size=30),
    st.integers(1, 10),
    st.integers(1, 10) | st.none(),
    st.floats(0.01, 1),
    st.integers(0, 2**40),
)
def test_a_cohort_keeps_to_its_rule(sites: set[str], least: int, extra: int | None, part: float, seed: int) -> None:
    """Between min and max, sorted, without repetition, and the same for the same seed and round."""
    rule = CohortRule(least, least + extra if extra is not None else None, part, seed)
    candidates = [SiteId(site) for site in sites]
    chosen = choose(candidates, rule, "train/1/1")
    assert chosen == choose(reversed(candidates), rule, "train/1/1")
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(candidates)
    if len(sites) < least:
        assert chosen == ()
    else:
        assert least <= len(chosen) <= (rule.max or len(sites))


def test_every_site_is_drawn_about_as_often_as_any_other() -> None:
    """1,000 draws of 3 out of 6: each site is in about half of them."""
    sites = [SiteId(f"site_{at}") for at in range(6)]
    counts = dict.fromkeys(sites, 0)
    for number in range(1000):
        for site in choose(sites, CohortRule(3, 3, 1.0, 7), f"train/{number}/1"):
            counts[site] += 1
    assert all(400 < count < 600 for count in counts.values())


def test_a_seed_belongs_to_one_step() -> None:
    """Other steps and other jobs have other seeds, all of 63 bits."""
    seeds = {derive_seed(seed, draw) for seed in range(20) for draw in ("train/1", "train/2")}
    assert len(seeds) == 40
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_model_that_grows_by_sums_is_made_and_measured_when_they_are_done() -> None:
    plan = Plan(rounds=2, statistics=False, evaluate_every=1, grows=True)
    assert next_step(plan, Progress(asked=3, trained=1)) == Step(RoundKind.STATISTICS, 3, 1)
    grown = Progress(asked=5, trained=2, statistics_done=True)
    assert next_step(plan, grown) == Step(RoundKind.INITIALISE, 0, 1)
    made = replace(grown, has_model=True)
    assert next_step(plan, made) == Step(RoundKind.EVALUATE, 2, 1)
    assert next_step(plan, replace(made, evaluated=2)) == Finished(JobState.SUCCEEDED, "completed")
