"""A job's noise: from its section `privacy` to the terms of each private round, calibrated once at submission.

The job's whole plan is charged: all its rounds, with the noise of the minimum cohort less the sites assumed to collude,
and no credit for sampling, which no party enforces. What a site is asked for, it computes again for itself.
"""

import math
from dataclasses import dataclass
from typing import Final

from undersong.services.coordinator.domain import parts
from undersong.services.coordinator.domain.findings import Findings
from undersong.services.coordinator.domain.recipes import given_instead
from undersong.services.coordinator.domain.turns import settle_turns
from undersong.shared.errors import Invalid, Refusal
from undersong.shared.learning.strategies import robust_rule
from undersong.shared.privacy import toeplitz
from undersong.shared.privacy.accounting import epsilon_of, noise_for, noise_until
from undersong.shared.privacy.clipping import MOST_SHARE_NOISE, bit_noise
from undersong.shared.secagg.engines import ENGINES, names_of
from undersong.shared.secagg.facts import EngineFacts
from undersong.shared.secagg.private import expected_event, misplaced
from undersong.shared.wire.privacy import (
    MAX_EPSILON,
    MIN_DELTA,
    AdaptiveClip,
    CorrelatedNoise,
    NoisySteps,
    PrivacyModel,
    PrivacyTerms,
    PrivacyUnit,
)
from undersong.shared.wire.profiles import RecipeSpec

_SECTION: Final = "/privacy"
_LEAST_EPSILON: Final = 1e-9
"""What is claimed of noise so large that delta covers all that it costs."""
_ADAPTIVE: Final = f"{_SECTION}/adaptive_clip"
_EXACT: Final = "exact sums, of which no epsilon says anything; a site whose policy requires noise refuses them"


class TooLittleNoise(Invalid):
    """The noise given bounds nothing."""


@dataclass(frozen=True, slots=True)
class Protected:
    """What a job's noise protects: the unit, how many of them there are, where that is known, in how many rounds.

    steps: what the recipe does in each round, where it adds the noise. clip_norm: the limit of an update's norm in the
    first round, of a job that trains. sites: how many can take part, where known. statistics: whether it is about a job
    of statistics.
    """

    unit: PrivacyUnit
    count: int | None
    rounds: int
    steps: NoisySteps | None = None
    clip_norm: float | None = None
    sites: int | None = None
    statistics: bool = False


def settle_terms(
    asked: parts.PrivacyPart,
    cohort: parts.CohortPart | None,
    facts: EngineFacts | None,
    protected: Protected,
    findings: Findings,
) -> PrivacyTerms | None:
    """Return the terms of the job's private rounds; None for exact ones, and where the findings say what is wrong."""
    model, before = PrivacyModel(asked.model), len(findings.errors)
    correlated = settle_turns(
        asked,
        cohort,
        sites=protected.sites,
        rounds=protected.rounds,
        trains=protected.unit is PrivacyUnit.SITE,
        findings=findings,
    )
    if model is PrivacyModel.NONE:
        if asked.epsilon is not None or asked.noise_multiplier is not None:
            findings.error(f"{_SECTION}/model", "with none sums are exact: name who adds noise, such as distributed")
        if asked.adaptive_clip is not None:
            findings.error(_ADAPTIVE, "moves with a noisy share of updates: name who adds noise, such as distributed")
        return None
    _check_section(asked, protected, findings)
    _check_place(model, facts, findings)
    if cohort is not None and asked.colluding >= cohort.min:
        findings.error(
            f"{_SECTION}/colluding", f"of {cohort.min} sites, at least one must be honest: fewer than cohort.min"
        )
    if len(findings.errors) > before or cohort is None or (model is PrivacyModel.RECORD and protected.steps is None):
        return None
    try:
        terms = _terms(asked, model, cohort.min - asked.colluding, protected, correlated)
    except Refusal as refusal:
        findings.error(f"{_SECTION}/{'noise_multiplier' if asked.epsilon is None else 'epsilon'}", refusal.detail)
        return None
    if terms.adaptive_clip is not None and (noise := share_noise(terms, cohort.min)) > MOST_SHARE_NOISE:
        findings.error(
            _ADAPTIVE,
            f"the share of {cohort.min} sites within the limit would be known only to ±{noise:.2g}, more than "
            f"±{MOST_SHARE_NOISE:g}: the limit would move by chance. Leave it out, or allow more sites or more epsilon",
        )
        return None
    return terms


def _check_rule(asked: parts.PrivacyPart, strategy: parts.StrategyPart | None, findings: Findings) -> None:
    """Check that noise on the sum is not promised where no sum is taken."""
    if strategy is None or robust_rule(strategy.name) is None or asked.model not in ("server", "distributed"):
        return
    findings.error(
        "/strategy/name",
        f"with privacy.model {asked.model} the noise is on the sum of all updates, and {strategy.name} takes none: "
        "take fedavg, or privacy.model local or record",
    )


def check_training(
    asked: parts.PrivacyPart | None,
    strategy: parts.StrategyPart | None,
    update: parts.UpdatePart | None,
    evaluation: parts.EvaluationPart | None,
    findings: Findings,
) -> None:
    """Check that a private training job's other parts are as its noise needs them; what of the job stays exact."""
    if asked is None or not asked.noisy:
        return
    _check_rule(asked, strategy, findings)
    if strategy is not None and strategy.weighting != "equal":
        findings.error(
            "/strategy/weighting", "with noise every site weighs the same, or its weight would tell: set it to equal"
        )
    if update is not None and update.clip_norm is None and asked.model != "record":
        findings.error("/update/clip_norm", "noise is measured by it: give the limit of an update's L2 norm, say 1.0")
    if evaluation is not None and evaluation.sites:
        said = "sites' own metrics are outside of what the noise promises"
        findings.error(
            "/evaluation/sites", f"{said}: ask for them in a job of kind evaluate, for a version of this one"
        )
    if evaluation is not None and evaluation.every > 0:
        findings.warn("/evaluation/every", f"evaluations are {_EXACT}: set it to 0 to do without")


def warn_standardising(
    asked: parts.PrivacyPart | None, recipe: RecipeSpec, standardises: bool, findings: Findings
) -> None:
    """Say that a private job's recipe adds exact sums before it trains."""
    if standardises and asked is not None and asked.noisy:
        does = "standardises columns" if recipe.reduces is None else f"makes its {recipe.reduces}"
        findings.warn("/recipe", f"{recipe.name} {does} by {_EXACT}; give params.{given_instead(recipe)} to do without")


def calibrated(
    model: PrivacyModel, epsilon: float, delta: float, rounds: int, steps: NoisySteps | None = None
) -> float:
    """Return the least noise multiplier with which the rounds cost no more; raises `Unaffordable`."""
    if steps is not None or model is PrivacyModel.DISTRIBUTED:
        return noise_until(
            epsilon, lambda noise: epsilon_of([expected_event(model, noise, rounds, steps)], delta, quick=True)
        )
    return noise_for(epsilon, delta, rounds)


def _terms(
    asked: parts.PrivacyPart,
    model: PrivacyModel,
    min_sites: int,
    protected: Protected,
    correlated: CorrelatedNoise | None,
) -> PrivacyTerms:
    """Calibrate for all rounds, or those in which one site has its turn; raises `Unaffordable`."""
    noise, charged = asked.noise_multiplier, protected.rounds if correlated is None else correlated.participations
    if noise is None:
        noise = calibrated(model, asked.epsilon or 0.0, asked.delta, charged, protected.steps)
    found = epsilon_of([expected_event(model, noise, charged, protected.steps)], asked.delta)
    epsilon = max(found, _LEAST_EPSILON)
    if epsilon > MAX_EPSILON:
        raise TooLittleNoise(
            f"{protected.rounds} rounds with this noise cost epsilon {epsilon:.4g}, which bounds nothing "
            f"(at most {MAX_EPSILON:g}): give more noise or fewer rounds"
        )
    return PrivacyTerms(
        model=model,
        unit=protected.unit,
        noise_multiplier=noise,
        delta=asked.delta,
        epsilon=epsilon,
        rounds=protected.rounds,
        min_sites=min_sites,
        colluding=asked.colluding,
        steps=protected.steps,
        adaptive_clip=adaptive_rule(asked.adaptive_clip, protected.clip_norm),
        correlated=correlated,
    )


def adaptive_rule(rule: parts.AdaptiveClipPart | None, clip_norm: float | None) -> AdaptiveClip | None:
    """Return how the clip norm moves from its start; None where it stays."""
    if rule is None or clip_norm is None:
        return None
    return AdaptiveClip(quantile=rule.quantile, rate=rule.rate, start=clip_norm)


def _check_section(asked: parts.PrivacyPart, protected: Protected, findings: Findings) -> None:
    if asked.clip_norm is not None and asked.model != "record":
        findings.error(
            f"{_SECTION}/clip_norm", "limits a record's gradient with model record; for updates give update.clip_norm"
        )
    if asked.adaptive_clip is not None and protected.unit is not PrivacyUnit.SITE:
        findings.error(_ADAPTIVE, "moves the limit of sites' updates, which no noise protects here: leave it out")
    if (asked.epsilon is None) == (asked.noise_multiplier is None):
        findings.error(_SECTION, "give epsilon or noise_multiplier, one of them: the other follows")
    if asked.unit is not None and asked.unit != protected.unit:
        findings.error(f"{_SECTION}/unit", _other_unit(protected))
    if asked.delta < MIN_DELTA:
        findings.error(
            f"{_SECTION}/delta",
            f"must be at least {MIN_DELTA:g}: noise is not drawn more exactly than that",
        )
    if protected.count is not None and asked.delta >= 1 / max(1, protected.count):
        findings.error(
            f"{_SECTION}/delta",
            f"must be less than 1/{protected.count}: with {protected.count} {protected.unit}s, one could be told "
            "whole and the claim still hold",
        )


def _other_unit(protected: Protected) -> str:
    """Return why the noise protects this unit, and what protects the other one."""
    said = f"here the noise protects a {protected.unit}: set it so, or leave it out"
    if protected.unit is PrivacyUnit.SITE:
        return f"{said}; rows are protected by model: record, where the recipe adds the noise"
    if not protected.statistics:
        return f"{said}; sites are protected by model: server, distributed or local, with update.clip_norm"
    return (
        f"{said}. Nothing limits a site's part in a sum over its rows, so no noise hides a whole site; where no site "
        "has more than k rows, epsilon / k for a record bounds a site by epsilon, at a larger delta"
    )


def _check_place(model: PrivacyModel, facts: EngineFacts | None, findings: Findings) -> None:
    if facts is not None and (why := misplaced(model, facts)) is not None:
        findings.error(f"{_SECTION}/model", f"{why}; {_elsewhere(model)}")


def _elsewhere(model: PrivacyModel) -> str:
    """Return the engines with which it can be done."""
    fit = [facts for facts in ENGINES.values() if misplaced(model, facts) is None]
    return f"it is possible with {names_of(fit)}"


def share_noise(terms: PrivacyTerms, sites: int) -> float:
    """Return the standard deviation of the noise on the share of `sites` updates within an adaptive clip norm."""
    return bit_noise(terms) * deviation_of(terms, sites) / (terms.noise_multiplier * sites)


def deviation_of(terms: PrivacyTerms, sites: int) -> float:
    """Return the standard deviation of the noise on a sum over this many sites, in sensitivities.

    Of noise that is correlated over rounds that of the job's last round. Two servers, or more sites than are counted
    on, add more than what is accounted for.
    """
    draws = {
        PrivacyModel.SERVER: 2.0,
        PrivacyModel.DISTRIBUTED: sites / terms.min_sites,
        PrivacyModel.LOCAL: float(sites),
    }
    noise = terms.noise_multiplier * math.sqrt(draws.get(terms.model, 1.0))
    if terms.correlated is not None:
        band = terms.correlated.separation
        noise *= toeplitz.norm(band) * toeplitz.spread(band, terms.rounds)
    return noise
