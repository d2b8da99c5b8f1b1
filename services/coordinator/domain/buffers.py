"""Buffers of updates (FedBuff): sites train ahead of rounds, and a round collects what is ready. Pure.

An order is a round of kind `prepare` for one version of a job. Its number is the count of rounds trained before it, so
that staleness is a difference. A site has one change at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from undersong.services.coordinator.domain import parts
from undersong.services.coordinator.domain.findings import Findings
from undersong.services.coordinator.domain.rounds import Round
from undersong.services.coordinator.domain.spec import AnySpec, JobSpec
from undersong.services.coordinator.domain.tasks import SiteTask, TaskState
from undersong.shared.ids import SiteId, VersionId
from undersong.shared.learning.strategies import STRATEGIES, StrategyUnknown
from undersong.shared.wire.manifest import BufferedChange

TOO_STALE: Final = "too-stale"
"""Why an order ends whose version is too old for what sites make of it."""


@dataclass(frozen=True, slots=True)
class BufferRule:
    """How many changes a round collects at least, and how many versions old one may be."""

    size: int
    max_staleness: int


@dataclass(frozen=True, slots=True)
class TrainingOrder:
    """A training order that sites may still answer, and its tasks by site."""

    round: Round
    version_id: VersionId
    tasks: Mapping[SiteId, SiteTask]


def rule_of(spec: AnySpec) -> BufferRule | None:
    """Return the buffer of a job; None of one whose rounds train and collect at once."""
    if not isinstance(spec, JobSpec) or not spec.trains or not _buffered(spec.strategy.name):
        return None
    settings = STRATEGIES[spec.strategy.name].settings(spec.strategy.params)
    return BufferRule(max(int(settings["buffer"]), spec.cohort.min), int(settings["max_staleness"]))


def busy(orders: Sequence[TrainingOrder]) -> set[SiteId]:
    """Return the sites that train, or are asked to."""
    return {site for order in orders for site, task in order.tasks.items() if task.outstanding}


def ready(orders: Sequence[TrainingOrder], trained: int, rule: BufferRule) -> dict[SiteId, BufferedChange]:
    """Return the changes that a round may collect after `trained` rounds, by site."""
    return {
        site: BufferedChange(site_id=site, version_id=order.version_id, staleness=trained - order.round.number)
        for order in orders
        if trained - order.round.number <= rule.max_staleness
        for site, task in order.tasks.items()
        if task.state is TaskState.TRAINED
    }


def check_buffer(
    parsed: Mapping[str, Any], params: Mapping[str, Any] | None, eligible: int | None, findings: Findings
) -> None:
    """Check the parts of a job whose rounds collect what sites trained before; `params` are the recipe's."""
    strategy: parts.StrategyPart | None = parsed.get("strategy")
    if strategy is None or not _buffered(strategy.name):
        return
    if strategy.weighting != "equal":
        findings.error(
            "/strategy/weighting",
            "must be equal with fedbuff: the sum of changes is divided by weights that all parties know",
        )
    _check_cohort(strategy, parsed.get("cohort"), eligible, findings)
    privacy: parts.PrivacyPart | None = parsed.get("privacy")
    if privacy is not None and privacy.adaptive_clip is not None:
        findings.error(
            "/privacy/adaptive_clip", "the limit of changes that were trained before cannot move: leave it out"
        )
    if privacy is not None and privacy.mechanism != "independent":
        findings.error("/privacy/mechanism", "with fedbuff sites give when they are ready, and cannot take turns")
    if params is not None and params.get("control_variates"):
        findings.error(
            "/recipe/params/control_variates", "control variates are those of one round: leave them out with fedbuff"
        )


def _check_cohort(
    strategy: parts.StrategyPart, cohort: parts.CohortPart | None, eligible: int | None, findings: Findings
) -> None:
    try:
        size = int(STRATEGIES[strategy.name].settings(strategy.params)["buffer"])
    except StrategyUnknown:
        return  # said elsewhere
    if size < parts.MIN_COHORT and not (cohort is not None and cohort.allow_small):
        findings.error("/strategy/params/buffer", f"at least {parts.MIN_COHORT}: a sum over fewer tells too much")
    elif cohort is not None and size < cohort.min:
        findings.error("/strategy/params/buffer", f"must not be less than cohort.min, which is {cohort.min}")
    if cohort is None:
        return
    if cohort.max is not None and cohort.max < size:
        findings.error("/cohort/max", f"must not be less than the buffer, which is {size}")
    if eligible is not None and eligible < size:
        findings.error(
            "/strategy/params/buffer", f"{eligible} sites can take part, which never fill a buffer of {size}"
        )
    if cohort.enough is not None:
        findings.error("/cohort/enough", "leave it out with fedbuff: strategy.params.buffer says how many are enough")
    if cohort.fraction != 1:
        findings.error("/cohort/fraction", "leave it out with fedbuff: a round collects from those who are ready")


def _buffered(name: str) -> bool:
    strategy = STRATEGIES.get(name)
    return strategy is not None and strategy.buffered
