"""What a job's noise costs before anything runs, what other noise would, and whether another mechanism would help."""

import math
from typing import Final

from pydantic import Field

from undersong.services.coordinator.domain.parts import Part
from undersong.services.coordinator.domain.privacy import calibrated, deviation_of, share_noise
from undersong.services.coordinator.domain.spec import StatisticsSpec
from undersong.services.coordinator.domain.validation import ValidJob, largest_cohort
from undersong.shared.errors import Refusal
from undersong.shared.privacy import toeplitz
from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.privacy.clipping import bit_noise, update_noise
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.secagg.private import expected_event
from undersong.shared.wire.privacy import MAX_EPSILON, NoisySteps, PrivacyModel, PrivacyTerms

EPSILONS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0)
_BARELY: Final = 1.05  # of a saving: not worth taking turns for
MOST_SIMULATED: Final = 1024
"""Rounds of which the matrix mechanism's error is computed; more have the same trend."""


class NoisePoint(Part):
    """The least noise for an epsilon; null where none that can be drawn is enough."""

    epsilon: float
    noise_multiplier: float | None


class RoundsPoint(Part):
    """What a number of rounds costs with the plan's noise; null where it bounds nothing."""

    rounds: int
    epsilon: float | None


class ParticipationPlan(Part):
    """How often a site takes part, and what noise that is correlated over rounds would save.

    separation: rounds between two of the same site, if sites took strict turns. saving: by which factor the noise of
    prefix sums would fall (a banded square-root matrix), 1.0 where nothing is won.
    """

    sites: int
    eligible: int
    separation: int
    participations: int
    saving: float
    advice: str


class ClippingPlan(Part):
    """What an adaptive clip norm costs, and how well it can follow the updates.

    update_noise: noise on the sum of updates in clip norms, which is larger than the job's noise multiplier by what the
    count of clipped updates costs. bit_noise: noise on that count as accounted for, in sites. share_noise: standard
    deviation of the noise on the share of updates within the limit, over the minimum cohort; each round moves the limit
    by a factor of exp(rate · share_noise) by chance.
    """

    quantile: float
    rate: float
    start: float
    update_noise: float
    bit_noise: float
    share_noise: float


class PrivacyPlan(Part):
    """What noise a job has and what it costs; of an exact job what noise would cost.

    deviation: standard deviation of the noise on a sum over the minimum cohort, in units of what one site (or record)
    can change; null where the recipe adds it. mean_noise: the same on each coordinate of the mean, for training in clip
    norms.
    """

    terms: PrivacyTerms | None = Field(description="What the job's noise promises; null where its sums are exact.")
    model: PrivacyModel
    delta: float
    rounds: int
    min_sites: int
    over_noise: tuple[NoisePoint, ...]
    over_rounds: tuple[RoundsPoint, ...]
    deviation: float | None
    mean_noise: float | None
    participation: ParticipationPlan | None
    clipping: ClippingPlan | None = Field(default=None, description="The cost of a limit that follows the updates.")


_SAME: Final = 1e-3  # calibration ends a little below the epsilon that is asked for


def plan_of(job: ValidJob) -> PrivacyPlan:
    """Compute the plan; takes seconds."""
    terms, asked = job.resolved.privacy, job.spec.privacy
    statistics = isinstance(job.spec, StatisticsSpec)
    model = terms.model if terms is not None else _likely(job.spec.engine)
    rounds = 1 if isinstance(job.spec, StatisticsSpec) else job.spec.rounds
    charged = rounds if terms is None else terms.charged
    inside = terms is not None and terms.steps is not None
    deviation = deviation_of(terms, job.spec.cohort.min) if terms is not None and not inside else None
    clipping = None if terms is None else _clipping(terms, job.spec.cohort.min)
    return PrivacyPlan(
        terms=terms,
        model=model,
        delta=asked.delta,
        rounds=rounds,
        min_sites=job.spec.cohort.min - asked.colluding,
        over_noise=_over_noise(model, asked.delta, charged, terms),
        over_rounds=_over_rounds(terms) if terms is not None and not statistics else (),
        deviation=deviation,
        mean_noise=None if deviation is None or statistics else _on_mean(deviation, job, clipping),
        participation=None if statistics or inside else _participation(job),
        clipping=clipping,
    )


def _on_mean(deviation: float, job: ValidJob, clipping: ClippingPlan | None) -> float:
    """Return the noise on each coordinate of a mean, in clip norms: more of it where clipped updates are counted."""
    terms = job.resolved.privacy
    widened = 1.0 if clipping is None or terms is None else clipping.update_noise / terms.noise_multiplier
    return widened * deviation / job.spec.cohort.min


def _clipping(terms: PrivacyTerms, sites: int) -> ClippingPlan | None:
    rule = terms.adaptive_clip
    if rule is None:
        return None
    sigma = bit_noise(terms)
    return ClippingPlan(
        quantile=rule.quantile,
        rate=rule.rate,
        start=rule.start,
        update_noise=update_noise(terms.noise_multiplier, sigma),
        bit_noise=sigma,
        share_noise=share_noise(terms, sites),
    )


def _likely(engine: str) -> PrivacyModel:
    """Return the model that an exact job could ask for with its engine."""
    facts = engine_facts(engine)
    if facts.adds_noise:
        return PrivacyModel.SERVER
    return PrivacyModel.DISTRIBUTED if facts.sums_site_noise else PrivacyModel.LOCAL


def _over_noise(model: PrivacyModel, delta: float, rounds: int, terms: PrivacyTerms | None) -> tuple[NoisePoint, ...]:
    """Return the least noise by epsilon, where one unit takes part in so many rounds."""
    steps = terms.steps if terms is not None else None
    others = [each for each in EPSILONS if terms is None or not math.isclose(each, terms.epsilon, rel_tol=_SAME)]
    found = {epsilon: _noise(model, epsilon, delta, rounds, steps) for epsilon in others}
    if terms is not None:
        found[terms.epsilon] = terms.noise_multiplier
    return tuple(NoisePoint(epsilon=epsilon, noise_multiplier=found[epsilon]) for epsilon in sorted(found))


def _noise(model: PrivacyModel, epsilon: float, delta: float, rounds: int, steps: NoisySteps | None) -> float | None:
    try:
        return calibrated(model, epsilon, delta, rounds, steps)
    except Refusal:
        return None


def _over_rounds(terms: PrivacyTerms) -> tuple[RoundsPoint, ...]:
    counts = sorted({max(1, round(share * terms.rounds)) for share in SHARES})
    apart = terms.correlated.separation if terms.correlated is not None else 1
    costs = [
        epsilon_of(
            [expected_event(terms.model, terms.noise_multiplier, math.ceil(count / apart), terms.steps)],
            terms.delta,
            quick=True,
        )
        for count in counts
    ]
    return tuple(
        RoundsPoint(rounds=count, epsilon=cost if cost <= MAX_EPSILON else None)
        for count, cost in zip(counts, costs, strict=True)
    )


def _participation(job: ValidJob) -> ParticipationPlan | None:
    if isinstance(job.spec, StatisticsSpec):
        return None
    asked, eligible, terms = job.spec.cohort, len(job.resolved.eligible), job.resolved.privacy
    correlated = terms.correlated if terms is not None else None
    if correlated is not None:
        sites, separation = largest_cohort(job.spec, job.resolved), correlated.separation
    else:
        sites = min(eligible, max(asked.min, math.ceil(asked.fraction * eligible)), asked.max or eligible)
        separation = max(1, eligible // sites)
    saving = saving_of(job.spec.rounds, separation)
    return ParticipationPlan(
        sites=sites,
        eligible=eligible,
        separation=separation,
        participations=math.ceil(job.spec.rounds / separation),
        saving=saving,
        advice=_advice(job, separation, saving, chosen=correlated is not None),
    )


def _advice(job: ValidJob, separation: int, saving: float, *, chosen: bool) -> str:
    """Say which case of participation the job is in, and what noise that is correlated over rounds does there."""
    if chosen and saving <= _BARELY:
        return (
            f"sites take turns, {separation} rounds apart, but in so few rounds noise correlated over rounds saves "
            "nothing: leave out mechanism and separation, or plan more rounds"
        )
    if chosen:
        return (
            f"sites take turns, {separation} rounds apart, and noise correlated over rounds (matrix mechanism) is "
            f"{saving:.1f} times smaller in what rounds add up to than independent noise would be"
        )
    if separation == 1:
        most = len(job.resolved.eligible) // job.spec.cohort.min
        turns = f"; with cohort.min {job.spec.cohort.min} they could take up to {most} turns" if most > 1 else ""
        return (
            "every site takes part in every round: noise correlated over rounds (matrix mechanism) saves nothing"
            + turns
        )
    if saving <= _BARELY:
        return "sites could take turns, but in so few rounds noise correlated over rounds saves nothing"
    how = "" if engine_facts(job.spec.engine).adds_noise else ", with an engine whose servers add noise,"
    return (
        f"if sites took strict turns, {separation} rounds apart, noise correlated over rounds (matrix mechanism) would "
        f"be {saving:.1f} times smaller in what rounds add up to: set{how} privacy.mechanism: matrix and "
        f"privacy.separation: {separation}, and leave out cohort.fraction and cohort.max. As it is, sites are "
        "chosen at random, and no credit is given for the sampling"
    )


def saving_of(rounds: int, separation: int) -> float:
    """Return by which factor a banded square-root matrix lowers the error of prefix sums, at least 1.

    Both with the sensitivity of one site that takes part every `separation` rounds: bands of that width do not overlap.
    """
    count = min(rounds, MOST_SIMULATED)
    times = math.ceil(count / separation)

    def noise(band: int) -> float:
        first = toeplitz.coefficients(band)
        return toeplitz.error(first, count) * toeplitz.sensitivity(first, count, separation, times)

    return max(1.0, noise(1) / noise(min(separation, count)))
