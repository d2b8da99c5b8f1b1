"""Whether cohort and engine protect the sites that take part in a job."""

from collections.abc import Mapping, Sequence

from undersong.services.coordinator.domain import parts
from undersong.services.coordinator.domain.findings import Findings
from undersong.services.coordinator.domain.sites import SiteFacts
from undersong.shared.learning.strategies import STRATEGIES, Strategy, StrategyUnknown
from undersong.shared.names import hint
from undersong.shared.secagg.engines import names_of
from undersong.shared.secagg.facts import EngineFacts


def check_cohort(cohort: parts.CohortPart | None, eligible: Sequence[SiteFacts], findings: Findings) -> None:
    """Check that enough sites can take part."""
    if cohort is None:
        return
    if len(eligible) < cohort.min:
        missing = "; ".join(warning.message for warning in findings.warnings)
        findings.error(
            "/cohort/min",
            f"{len(eligible)} active sites have this recipe, data set and columns, and {cohort.min} are needed"
            + (f" ({missing})" if missing else ""),
        )


def check_protection(
    cohort: parts.CohortPart | None, engine: str | None, engines: Mapping[str, EngineFacts], findings: Findings
) -> None:
    """Check that cohort and engine protect the sites that take part."""
    if cohort is not None:
        if cohort.max is not None and cohort.max < cohort.min:
            findings.error("/cohort/max", f"must not be less than min, which is {cohort.min}")
        if cohort.enough is not None and cohort.enough < cohort.min:
            findings.error("/cohort/enough", f"must not be less than min, which is {cohort.min}")
        if cohort.enough is not None and cohort.max is not None and cohort.enough > cohort.max:
            findings.error("/cohort/enough", f"must not be more than max, which is {cohort.max}")
        if cohort.min < parts.MIN_COHORT and not cohort.allow_small:
            findings.error(
                "/cohort/min",
                f"at least {parts.MIN_COHORT}: with two, each could subtract itself from the sum. "
                "Set cohort.allow_small to do it all the same.",
            )
    if engine is not None and engine not in engines:
        findings.error("/engine", f"there is no engine {engine!r}{hint(engine, engines)}")
    elif engine is not None and cohort is not None and cohort.min < engines[engine].smallest:
        findings.error(
            "/engine",
            f"{engine} needs cohort.min of at least {engines[engine].smallest}; for fewer sites name another engine"
            + _for_fewer(cohort.min, engines),
        )


def check_proved(
    engine: str | None,
    strategy: parts.StrategyPart | None,
    update: parts.UpdatePart | None,
    engines: Mapping[str, EngineFacts],
    findings: Findings,
) -> None:
    """Check that proofs and weights are what the engine offers; say what an author should know of one that proves."""
    if engine is None or engine not in engines:
        return
    facts, proving = engines[engine], names_of(each for each in engines.values() if each.proves_norm)
    if update is not None and update.norm_equality_proofs is not None and not facts.proves_norm:
        findings.error("/update/norm_equality_proofs", f"with {engine} no norm is proved; it is proved with {proving}")
    if strategy is not None and strategy.weighting != "equal" and not facts.weighted:
        findings.warn("/strategy/weighting", f"with {engine} every site weighs the same, whatever its examples")
    if update is not None and update.clip_norm is None and facts.proves_norm:
        findings.warn(
            "/update/clip_norm", f"{engine} proves an L2 norm: without clip_norm it is update.bound, {update.bound:g}"
        )


def check_rule(
    engine: str | None,
    strategy: parts.StrategyPart | None,
    cohort: parts.CohortPart | None,
    update: parts.UpdatePart | None,
    engines: Mapping[str, EngineFacts],
    findings: Findings,
) -> None:
    """Check that a strategy against poisoned updates sees, or has proved, what it rests on, and of enough sites."""
    chosen = STRATEGIES.get(strategy.name) if strategy is not None else None
    if strategy is None or chosen is None or engine is None or engine not in engines:
        return
    facts = engines[engine]
    seeing = [each for each in engines.values() if each.sees_updates]
    proving = [each for each in engines.values() if each.proves_norm]
    if chosen.rests_on_norms and not facts.proves_norm:
        findings.error(
            "/strategy/name",
            f"{chosen.name} rests on a proof of each update's norm, and with {engine} there is none: name "
            f"{names_of(proving)}",
        )
    if chosen.rests_on_norms and update is not None and update.clip_norm is None:
        findings.error("/update/clip_norm", f"{chosen.name} needs the limit of an update's norm: give it")
    if chosen.rule is None:
        return
    if not facts.sees_updates:
        told = "; ".join(f"{each.name}, with which {each.wording.seen_by}" for each in seeing)
        findings.error(
            "/strategy/name",
            f"{chosen.name} compares single updates, and with {engine} no party sees one: it is offered by {told}. "
            f"Where updates stay hidden, bounded_mean with {names_of(proving)} limits what each can do",
        )
    if strategy.weighting != "equal":
        findings.warn("/strategy/weighting", f"{chosen.name} counts every site the same, whatever its examples")
    _check_enough(chosen, strategy, cohort, findings)


def check_compression(
    engine: str | None,
    strategy: parts.StrategyPart | None,
    update: parts.UpdatePart | None,
    privacy: parts.PrivacyPart | None,
    engines: Mapping[str, EngineFacts],
    findings: Findings,
) -> None:
    """Check that what is done to updates before they are encoded goes together with the rest of the job."""
    if update is None or update.compression is None:
        return
    facts = engines.get(engine or "")
    if update.rotation and facts is not None and facts.proves_norm:
        others = names_of(each for each in engines.values() if not each.proves_norm)
        findings.error(
            "/update/rotation", f"{engine} sends words of 64 bits, rotated or not: leave it out, or name {others}"
        )
    if update.rotation and update.clip_norm is None:
        findings.error(
            "/update/clip_norm",
            "update.rotation needs the limit of an update's L2 norm: without it nothing says how large a rotated "
            "coordinate can be. Give it, or leave rotation out",
        )
    known = None if strategy is None else STRATEGIES.get(strategy.name)
    if known is not None and known.buffered:
        findings.error(
            "/update",
            f"with {known.name} sites train before they know their round, and send changes whole: leave rotation, keep "
            "and error_feedback out, or take another strategy",
        )
    if update.error_feedback and known is not None and known.rescale is not None:
        findings.error(
            "/update/error_feedback",
            f"with {known.name} changes of different rounds are in different units, and what one left out is no "
            "part of the next: leave it out, or take another strategy",
        )
    if privacy is None or not privacy.noisy:
        return
    if privacy.model != "record":
        fields = (("rotation", update.rotation), ("keep", update.keep is not None))
        for name in (name for name, asked in fields if asked):
            findings.error(
                f"/update/{name}",
                f"privacy.model {privacy.model} accounts for updates that are sent whole, and as they are: leave it "
                "out, or take privacy.model record",
            )
    if update.error_feedback:
        findings.error(
            "/update/error_feedback",
            "what a site keeps of earlier rounds would be sent again, and a round's noise is accounted for that "
            "round's change alone: leave it out, or leave privacy out",
        )


def _check_enough(
    chosen: Strategy, strategy: parts.StrategyPart, cohort: parts.CohortPart | None, findings: Findings
) -> None:
    """Check that even the smallest cohort is large enough for a rule."""
    try:
        settings = chosen.settings(strategy.params)
    except StrategyUnknown:
        return  # said elsewhere
    if chosen.rule is not None and cohort is not None and cohort.min < (least := chosen.rule.least(settings)):
        findings.error(
            "/cohort/min", f"{chosen.name} with these parameters needs {least} sites a round: {chosen.rule.why}"
        )


def _for_fewer(sites: int, engines: Mapping[str, EngineFacts]) -> str:
    """Return ", such as sealed, with which …": an engine that serves so few sites and what it lets be seen."""
    for facts in engines.values():
        if facts.smallest <= sites and facts.sees_updates:
            return f", such as {facts.name}, with which {facts.wording.seen_by}"
    return ""
