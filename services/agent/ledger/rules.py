"""What a round may still cost, whether it costs what it claims, and what becomes of a charge. Pure.

Sources: composition by `undersong.shared.privacy.accounting`; the states of a charge are those of decision 26.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from undersong.services.agent.domain.budgets import Budget, PrivacyRule
from undersong.services.agent.domain.rules import Reason
from undersong.services.agent.ledger.entries import Chain, Charge, Line, State, event_in, noisy
from undersong.shared.privacy.accounting import Unaffordable, epsilon_of, noise_until
from undersong.shared.privacy.clipping import clip_range
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.privacy import (
    MIN_DELTA,
    AdaptiveClip,
    GaussianEvent,
    NonPrivateEvent,
    PrivacyEvent,
    PrivacyTerms,
    PrivacyUnit,
    ZeroConcentratedEvent,
)

SLACK: Final = 1e-6
"""Relative: by how much two computations of one epsilon may differ, as between two versions of the accountant."""
EXACT_DELTA: Final = 1e-6
"""The delta of a line about an exact answer of a data set without a budget: its epsilon has no bound at any delta."""
DAY_MS: Final = 86_400_000
FINAL_AFTER_MS: Final = 7 * DAY_MS
"""After its deadline, a round of which nothing was heard counts as opened."""
GONE_AFTER_MS: Final = 3_600_000
"""After its deadline, a round for which nothing was made ready to be sent here is over for this site."""

BUDGET_EXCEEDED: Final = "budget-exceeded"
POLICY_PRIVACY: Final = "policy-privacy"
PRIVACY_MISMATCH: Final = "privacy-mismatch"
LEDGER_DAMAGED: Final = "ledger-damaged"


def unit_of(manifest: RoundManifest) -> PrivacyUnit:
    """Return the unit that a round is charged for: of an exact sum all that the site sends."""
    return PrivacyUnit.SITE if manifest.privacy is None else manifest.privacy.unit


def delta_of(manifest: RoundManifest, budget: Budget | None) -> float:
    """Return the delta at which a round's line states epsilon."""
    if budget is not None:
        return budget.delta
    return manifest.privacy.delta if manifest.privacy is not None else EXACT_DELTA


def epsilon_after(charges: Mapping[int, Charge], line: Line, budget: Budget | None) -> float | None:
    """Return what all charges of a line's data set and unit cost at its delta; None where it has no bound."""
    if isinstance(event_in(line), NonPrivateEvent) and line.state is not State.VOID:
        return None
    begin = None if budget is None else line.at_ms - budget.period_ms
    spent = [
        charge.event
        for charge in charges.values()
        if charge.touches(line.dataset, line.unit) and (begin is None or charge.held.at_ms > begin)
    ]
    found = epsilon_of(spent, line.delta)
    return found if math.isfinite(found) else None


def mismatch(manifest: RoundManifest, event: PrivacyEvent, chain: Chain) -> Reason | None:
    """Compare what the round's terms claim with what this site computes; None where the claim holds.

    All rounds that are promised must cost at most the claimed epsilon together, as must this one with the job's rounds
    that this site was charged for, whatever their own terms were. Of several attempts at one round the dearest counts:
    a second attempt is charged, but the claim is about the job's rounds. Where noise is correlated over rounds the
    claim is about as many as this site may take part in, so far apart that each costs what its event says.
    """
    terms = manifest.privacy
    if terms is None:
        return None
    if terms.delta < MIN_DELTA:
        said = f"the terms claim a delta of {terms.delta:g}, and noise is not drawn more exactly than to {MIN_DELTA:g}"
        return Reason(PRIVACY_MISMATCH, said)
    others = _other_rounds(manifest, chain, terms.delta)
    if len(others) >= terms.charged:
        said = f"this site took part in {len(others)} rounds of a job whose terms are about {terms.charged}"
        return Reason(PRIVACY_MISMATCH, said)
    if (near := _too_near(manifest, terms, chain) or _clip_moved(manifest, terms)) is not None:
        return Reason(PRIVACY_MISMATCH, near)
    together = epsilon_of([several(event, terms.charged)], terms.delta)
    if exceeds(together, terms.epsilon):
        return Reason(PRIVACY_MISMATCH, f"{terms.charged} rounds {_claims(together, terms)}")
    spent = epsilon_of([*others, event], terms.delta)
    if exceeds(spent, terms.epsilon):
        return Reason(PRIVACY_MISMATCH, f"the {len(others) + 1} rounds up to this one {_claims(spent, terms)}")
    return None


def _too_near(manifest: RoundManifest, terms: PrivacyTerms, chain: Chain) -> str | None:
    """Return which earlier participation is nearer than the noise is correlated; None where none is.

    Another attempt at the same row is not: the servers give a row to one sum.
    """
    row = manifest.noise_row
    if terms.correlated is None or row is None:
        return None
    apart = terms.correlated.separation
    near = [other for other in _rows(chain, manifest) if 0 < abs(row - other) < apart]
    if not near:
        return None
    return (
        f"this site took part in row {max(near)} of the job's noise, and this round's is row {row}: the terms promise "
        f"{apart} from one to the next"
    )


def _clip_moved(manifest: RoundManifest, terms: PrivacyTerms) -> str | None:
    """Return that a round's clip norm cannot follow from where the job's began; None where it can.

    Before round n of a job at most n - 1 rounds trained, and fewer than the terms are about.
    """
    rule, encoding = terms.adaptive_clip, manifest.encoding
    if rule is None or encoding is None or encoding.clip_norm is None:
        return None
    moves = max(0, min(manifest.number, terms.rounds) - 1)
    least, most = clip_range(rule, moves)
    if least * (1 - SLACK) <= encoding.clip_norm <= most * (1 + SLACK):
        return None
    return (
        f"the round's clip norm is {encoding.clip_norm:.6g}, and from {rule.start:.6g} the job's rule leads to "
        f"{least:.6g} to {most:.6g} in the {moves} rounds that there can have been before it"
    )


def other_clip_rule(before: str | None, rule: AdaptiveClip | None) -> Reason | None:
    """Refuse a round whose clip norm moves by another rule, or from another start, than the job's rounds before it."""
    if before is None or rule is None or before == rule.model_dump_json():
        return None
    said = f"the job's clip norm moved by {before} before, and by {rule.model_dump_json()} in this round"
    return Reason(PRIVACY_MISMATCH, said)


def _rows(chain: Chain, manifest: RoundManifest) -> set[int]:
    """Return the rows of a job's correlated noise in which this site took part."""
    events = [charge.event for charge in chain.of_job(manifest.job_id, manifest.kind)]
    return {event.row for event in events if isinstance(event, GaussianEvent) and event.row is not None}


def _claims(found: float, terms: PrivacyTerms) -> str:
    return (
        f"cost epsilon {found:.6g} at delta {terms.delta:g} as this site computes it, and the manifest claims "
        f"{terms.epsilon:.6g}"
    )


def _other_rounds(manifest: RoundManifest, chain: Chain, delta: float) -> list[PrivacyEvent]:
    """Return one event for each other round of the job that has terms: the dearest of its attempts."""
    dearest: dict[int, PrivacyEvent] = {}
    for charge in chain.of_job(manifest.job_id, manifest.kind):
        number, event = charge.held.number, charge.event
        if number == manifest.number or isinstance(event, NonPrivateEvent):
            continue
        before = dearest.get(number)
        if before is None or (event != before and epsilon_of([event], delta) > epsilon_of([before], delta)):
            dearest[number] = event
    return list(dearest.values())


def exceeds(found: float, limit: float) -> bool:
    """Return whether an epsilon is more than a limit by more than two computations of it may differ."""
    return found > limit * (1 + SLACK)


def participation(manifest: RoundManifest, rule: PrivacyRule, chain: Chain) -> Reason | None:
    """Refuse a round in which this site would take part too often, or too soon after another of the job.

    And one more attempt at a round with noise than the policy allows: fresh noise on the same data averages out. Rounds
    are counted by the job's rounds that train where the manifest tells them (`noise_row`), else by its number.
    """
    charges = chain.of_job(manifest.job_id, manifest.kind)
    tried = sum(charge.held.number == manifest.number for charge in charges)
    if manifest.privacy is not None and tried >= rule.max_attempts:
        return Reason(
            POLICY_PRIVACY,
            f"this site answered {tried} attempts at this round, each of which may have been opened with other noise: "
            f"to allow more, raise `max_attempts` of `privacy` in policy.yaml above {rule.max_attempts}",
        )
    here, numbers = manifest.number, {charge.held.number for charge in charges}
    if manifest.noise_row is not None:
        here, numbers = manifest.noise_row, _rows(chain, manifest)
    numbers -= {here}
    most, apart = rule.max_participations, rule.min_separation
    if most is not None and len(numbers) >= most:
        return Reason(POLICY_PRIVACY, f"this site takes part in {most} rounds of a job (`max_participations`)")
    near = [number for number in numbers if apart is not None and abs(here - number) < apart]
    if near:
        return Reason(
            POLICY_PRIVACY,
            f"this site took part in round {max(near)} of the job, and its policy asks for {apart} rounds from one to "
            "the next (`min_separation`)",
        )
    return None


@dataclass(frozen=True, slots=True)
class Overdraw:
    """A round that a budget does not cover, and what would fit.

    have: what is spent in the period. asked: the round alone. after: both together. fit: how many of the job's `rounds`
    rounds the budget covers beside what other jobs spent. noise_multiplier: the least noise with which it would cover
    them all; None where no noise would do.
    """

    datasets: tuple[str, ...]
    budget: Budget
    have: float
    asked: float
    after: float
    rounds: int
    fit: int
    noise_multiplier: float | None

    @property
    def left(self) -> float:
        """What is left of the budget."""
        return max(0.0, self.budget.epsilon - self.have)

    @property
    def sentence(self) -> str:
        """All of it, for the owner."""
        budget = self.budget
        noise = (
            f"with a noise multiplier of {self.noise_multiplier:.4g} or more all of them would fit"
            if self.noise_multiplier is not None
            else "no noise would make all of them fit"
        )
        named = f"data set {self.datasets[0]}"
        if len(self.datasets) > 1:
            named = f"data sets {', '.join(self.datasets)}, which read the same files and are counted together"
        return (
            f"{named}, unit {budget.unit}, {budget.period_days} days: the budget is epsilon "
            f"{budget.epsilon:g} at delta {budget.delta:g}; have {self.have:.4g} spent, asked {self.asked:.4g}, left "
            f"{self.left:.4g}, and both together would be {self.after:.4g}. Of the job's {self.rounds} rounds "
            f"{self.fit} fit; {noise}"
        )


def overdraw(
    manifest: RoundManifest, event: PrivacyEvent, rule: PrivacyRule, chain: Chain, now_ms: int
) -> Overdraw | None:
    """Return what speaks against charging the round to its budgets; None where it fits, or nothing limits it.

    Its budgets are those of the data set and of all others that read a file of it. Exact answers are bounded by no
    budget and stand beside it: the policy allows them, or requires noise.
    """
    if manifest.privacy is None:
        return None
    names = rule.names(manifest.data.dataset)
    for name in names:
        budget = rule.budget(name, manifest.privacy.unit)
        over = None if budget is None else _over(manifest, event, budget, names, chain, now_ms)
        if over is not None:
            return over
    return None


def _over(
    manifest: RoundManifest, event: PrivacyEvent, budget: Budget, names: Sequence[str], chain: Chain, now_ms: int
) -> Overdraw | None:
    """Return what speaks against charging the round to one budget of these data sets together."""
    terms = manifest.privacy
    if terms is None:
        return None
    begin = now_ms - budget.period_ms
    spent = noisy(each for name in names for each in chain.spent(name, budget.unit, begin))
    after = epsilon_of([*spent, event], budget.delta)
    if not exceeds(after, budget.epsilon):
        return None
    others = noisy(
        charge.event
        for charge in chain.charges.values()
        if any(charge.touches(name, budget.unit) for name in names)
        and charge.held.at_ms > begin
        and (charge.held.job_id, charge.held.kind) != (manifest.job_id, manifest.kind)
    )

    def with_rounds(count: int) -> float:
        return epsilon_of([*others, several(event, count)] if count else others, budget.delta, quick=True)

    def with_noise(noise: float) -> float:
        return with_others([several(at_noise(event, terms.noise_multiplier, noise), terms.charged)])

    def with_others(events: Sequence[PrivacyEvent]) -> float:
        return epsilon_of([*others, *events], budget.delta, quick=True)

    return Overdraw(
        datasets=tuple(names),
        budget=budget,
        have=epsilon_of(spent, budget.delta),
        asked=epsilon_of([event], budget.delta),
        after=after,
        rounds=terms.charged,
        fit=_most(lambda count: not exceeds(with_rounds(count), budget.epsilon), terms.charged),
        noise_multiplier=_least_noise(budget.epsilon, with_noise),
    )


def several(event: PrivacyEvent, count: int) -> PrivacyEvent:
    """Return one event that costs as much as `count` of this one."""
    return event if isinstance(event, NonPrivateEvent) else event.model_copy(update={"count": event.count * count})


def at_noise(event: PrivacyEvent, known: float, noise: float) -> PrivacyEvent:
    """Return what the event of a noise multiplier of `known` would be at another one."""
    if isinstance(event, NonPrivateEvent):
        return event
    if isinstance(event, ZeroConcentratedEvent):
        return event.model_copy(update={"rho": event.rho * (known / noise) ** 2})
    return event.model_copy(update={"noise_multiplier": event.noise_multiplier * noise / known})


def _most(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number up to `most` that fits, where every smaller one does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _least_noise(epsilon: float, spent: Callable[[float], float]) -> float | None:
    try:
        return noise_until(epsilon, spent)
    except Unaffordable:
        return None


class Heard(StrEnum):
    """What this site knows of a round that it was charged for."""

    NOTHING = "nothing"
    READY = "ready"  # bytes that depend on the data are durable, so they may have left
    FORGOTTEN = "forgotten"  # it left, and the database, an earlier copy, does not know it
    OPENED = "opened"  # the log's record shows this site in a sum that was opened


def becomes(charge: Charge, heard: Heard, *, gave_up: bool, now_ms: int) -> tuple[State, str] | None:
    """Return what becomes of a held charge, and why; None where it stays held.

    It is void only where nothing that depends on the data was ever ready to leave, and this site has left the round
    (`gave_up`) or its time is over. From then on only a record signed by every party that could have opened the sum
    could prove that it was not opened; no engine has such a record, so the charge becomes final.
    """
    if charge.state is not State.HELD:
        return None
    deadline_ms = charge.held.due_ms - FINAL_AFTER_MS
    if heard is Heard.OPENED:
        return State.FINAL, "the log's record shows this site in the sum"
    if heard is Heard.FORGOTTEN:
        return State.FINAL, "an update left that the state folder, an earlier copy, does not know"
    if heard is Heard.NOTHING:
        over = gave_up or now_ms > deadline_ms + GONE_AFTER_MS
        return (State.VOID, "nothing that depends on the data was ready to leave") if over else None
    if now_ms > charge.held.due_ms:
        return State.FINAL, "nothing was heard of the round by seven days after its deadline"
    return None
