"""What an owner is asked to consent to: the parts of a manifest that are the same in every round of a job. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import JsonValue

from undersong.services.agent.domain.budgets import PrivacyRule
from undersong.services.agent.domain.rules import STATISTICS, ConsentRule, TaskFailure
from undersong.shared.ids import FederationId, JobId, ModelId
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.wire.forms import Digestible, DigestText, Name
from undersong.shared.wire.manifest import JobRequest, PlannedRounds, RoundKind, RoundManifest
from undersong.shared.wire.privacy import PrivacyUnit

LARGE_SHARE: Final = 0.25
"""Of a budget: a request that costs more is approved only with the job's name typed."""
_ASKED: Final = ("job_measures", "min_cell", "min_sites")
"""What stays the same in the parameters of a statistics job's rounds."""


_ALL_COLUMNS: Final = "all that the policy allows: the request names none"


class ConsentRequest(Digestible):
    """A job as its rounds' manifests describe it; its digest is what owners sign."""

    federation_id: FederationId
    job_id: JobId
    job: JobRequest
    recipe: Name
    recipe_digest: DigestText
    params: dict[str, JsonValue]
    dataset: Name
    label: Name | None
    engine: Name
    min_cohort: int
    strategy: Name
    strategy_params: dict[str, JsonValue]
    model_id: ModelId | None

    @property
    def rounds(self) -> int:
        """How many rounds the job has at most, the one that makes a first model left out: it reads no data."""
        return sum(each.rounds for each in self.job.planned)

    def planned(self, kind: RoundKind) -> PlannedRounds | None:
        """Return the rounds of this kind."""
        return next((each for each in self.job.planned if each.kind is kind), None)

    def has_room(self, kind: RoundKind, run: Mapping[str, int], left: int) -> bool:
        """Return whether one more round of this kind is among the `left` runs that are approved.

        `run`: how many rounds of each kind were run. In a job with noise the runs that its rounds with noise still need
        are not spent on exact answers.
        """
        own = self.planned(kind)
        if own is None or own.privacy is not None or all(each.privacy is None for each in self.job.planned):
            return True
        needed = sum(max(0, each.rounds - run.get(str(each.kind), 0)) for each in self.job.planned)
        return run.get(str(kind), 0) < own.rounds or left > needed

    def epsilon(self, unit: PrivacyUnit, delta: float) -> float:
        """Return what all rounds may cost each unit at a delta, as they claim: the sum over kinds of rounds.

        Infinite where a sum is exact, protects another unit, or is only claimed at a larger delta.
        """
        found = 0.0
        for each in self.job.planned:
            terms = each.privacy
            if terms is None or terms.unit is not unit or terms.delta > delta or each.rounds > terms.rounds:
                return math.inf
            found += terms.epsilon
        return found

    def shares(self, rule: PrivacyRule) -> dict[PrivacyUnit, float]:
        """Return by unit the share of the data set's budget that the job may cost; nothing where there is no budget.

        The largest share counts, where other data sets that read the same files have budgets as well.
        """
        found: dict[PrivacyUnit, float] = {}
        for budget in (each for name in rule.names(self.dataset) for each in rule.budgets.get(name, ())):
            share = self.epsilon(budget.unit, budget.delta) / budget.epsilon
            found[budget.unit] = max(share, found.get(budget.unit, 0.0))
        return found

    def large(self, rule: PrivacyRule) -> bool:
        """Return whether the job may cost more of a budget than `LARGE_SHARE`."""
        return any(share > LARGE_SHARE for share in self.shares(rule).values())


def request_of(manifest: RoundManifest) -> ConsentRequest | None:
    """Return the request that a round belongs to; None for a round that reads no data.

    Raises TaskFailure `manifest-request` for a round that is not what its own request says.
    """
    if manifest.kind is RoundKind.INITIALISE:
        return None
    job = manifest.request
    if job is None:
        raise _misfit("the manifest does not say what the job is for")
    kind = RoundKind.TRAIN if manifest.kind is RoundKind.PREPARE else manifest.kind
    planned = next((each for each in job.planned if each.kind is kind), None)
    if planned is None:
        raise _misfit(f"no round of kind {kind} is planned")
    if planned.privacy != manifest.privacy:
        raise _misfit("the round has other privacy terms than planned")
    clip = manifest.encoding.clip_norm if manifest.encoding is not None else None
    if planned.clip_norm is not None and planned.clip_norm != clip:
        raise _misfit("the round has another clip norm than planned")
    label = manifest.data.label
    read = {*manifest.data.features, *([label] if label is not None else [])}
    if not manifest.data.features and set(job.columns) - read:
        raise _misfit("a round that names no column reads all of them, and the request names some")
    if hidden := sorted(read - set(job.columns)):
        raise _misfit(f"columns are read that the request does not name: {', '.join(hidden)}")
    asked = manifest.recipe.name == STATISTICS
    params = manifest.recipe.params
    return ConsentRequest(
        federation_id=manifest.federation_id,
        job_id=manifest.job_id,
        job=job,
        recipe=manifest.recipe.name,
        recipe_digest=manifest.recipe.digest,
        params={name: params.get(name) for name in _ASKED} if asked else params,
        dataset=manifest.data.dataset,
        label=label,
        engine=manifest.engine,
        min_cohort=manifest.min_cohort,
        strategy=manifest.strategy.name,
        strategy_params=manifest.strategy.params,
        model_id=manifest.model_id if not asked else None,
    )


def approves(rule: ConsentRule, request: ConsentRequest) -> bool:
    """Return whether the policy itself approves a request: its recipe's code, below the epsilon that the owner allows
    it.
    """
    ceiling = rule.ceilings.get(request.recipe_digest)
    return ceiling is not None and any(request.epsilon(unit, ceiling.delta) <= ceiling.epsilon for unit in PrivacyUnit)


def _misfit(detail: str) -> TaskFailure:
    return TaskFailure("manifest-request", detail)


def fields_of(request: ConsentRequest) -> dict[str, Any]:
    """Return what a person reads of a request: a value for each field, in the order in which they are shown."""
    facts = engine_facts(request.engine)
    return {
        "job": request.job.name,
        "job id": request.job_id,
        "requester": request.job.requester,
        "reason": request.job.reason or "none was given",
        "recipe": request.recipe,
        "recipe code": request.recipe_digest,
        "parameters": request.params,
        "data set": request.dataset,
        "columns": list(request.job.columns) if set(request.job.columns) - {request.label} else _ALL_COLUMNS,
        "label": request.label,
        "engine": f"{request.engine} (who sees a single update: {facts.wording.seen_by})",
        "how updates are hidden": facts.wording.protection,
        "fewest sites in a sum": request.min_cohort,
        "rounds": {str(each.kind): each.rounds for each in request.job.planned},
        "clip norm": {str(each.kind): clip for each in request.job.planned if (clip := _clip(each)) is not None},
        "noise": {str(each.kind): _noise(each) for each in request.job.planned},
        "strategy": {"name": request.strategy, **request.strategy_params},
        "federation": request.federation_id,
    }


def _clip(planned: PlannedRounds) -> float | str | None:
    """Return the limit of an update's norm, or how it moves; None where nothing limits it."""
    rule = None if planned.privacy is None else planned.privacy.adaptive_clip
    if rule is None:
        return planned.clip_norm
    return f"{rule.start:g} at first, then towards the {rule.quantile:g} quantile of updates' norms"


def _noise(planned: PlannedRounds) -> str:
    terms = planned.privacy
    if terms is None:
        return "none: the sums are exact, nothing bounds what they say"
    turns = ""
    if terms.correlated is not None:
        turns = (
            f", of which this site takes part in {terms.charged} at most, {terms.correlated.separation} rounds apart "
            "(noise correlated over rounds)"
        )
    return (
        f"{terms.model}: epsilon {terms.epsilon:g} at delta {terms.delta:g} for each {terms.unit}, all {terms.rounds} "
        f"rounds together{turns}, if no more than {terms.colluding} sites collude"
    )


def changes(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the fields that differ from an earlier request; none where there was none."""
    if old is not None:
        yield from (name for name, value in new.items() if old.get(name) != value)
