"""Is this job one that can run? Every error at once, each with the path of the field that is wrong.

The document's parts are checked one by one, so that a mistake in one does not hide what is wrong with another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from undersong.services.coordinator.domain import parts
from undersong.services.coordinator.domain.buffers import check_buffer
from undersong.services.coordinator.domain.columns import choose_columns, declared_columns, group_column
from undersong.services.coordinator.domain.evaluation import (
    check_evaluation,
    check_event,
    check_kind,
    check_part,
    check_rows,
    check_watched,
    event_of,
)
from undersong.services.coordinator.domain.findings import Findings, parse_fields
from undersong.services.coordinator.domain.growing import check_growth
from undersong.services.coordinator.domain.noisy_steps import settle_steps
from undersong.services.coordinator.domain.privacy import Protected, check_training, settle_terms, warn_standardising
from undersong.services.coordinator.domain.protection import (
    check_cohort,
    check_compression,
    check_protection,
    check_proved,
    check_rule,
)
from undersong.services.coordinator.domain.recipes import (
    check_params,
    check_ranges,
    check_trained_with,
    find_recipe,
    standardises,
    with_strategy,
)
from undersong.services.coordinator.domain.sites import (
    CONSENTS,
    SiteFacts,
    consent_of,
    dataset_of,
    disability,
    holders_of,
    lacks_dataset,
    profile_of,
    schema_of,
)
from undersong.services.coordinator.domain.spec import AnySpec, JobSpec
from undersong.services.coordinator.domain.turns import turn_size
from undersong.shared.errors import FieldError, Refusal
from undersong.shared.ids import SiteId
from undersong.shared.learning.strategies import params_at_sites
from undersong.shared.names import twins
from undersong.shared.secagg.facts import EngineFacts
from undersong.shared.wire.columns import Column, Unused, misfit
from undersong.shared.wire.manifest import DataRef
from undersong.shared.wire.privacy import PrivacyTerms, PrivacyUnit
from undersong.shared.wire.profiles import RecipeSpec, Task


@dataclass(frozen=True, slots=True)
class World:
    """What a job is judged against. `check_encoding` raises a Refusal where sums have no headroom.

    `trained` is what the version that the job goes on from was trained on, and `trained_with` its recipe's parameters,
    where that is known.
    """

    federation_known: bool
    sites: Sequence[SiteFacts]
    engines: Mapping[str, EngineFacts]
    check_strategy: Callable[[str, Mapping[str, Any]], object]
    check_encoding: Callable[[int, JobSpec, PrivacyTerms | None], object]
    version_problem: str | None = None
    trained: DataRef | None = None
    trained_with: Mapping[str, Any] | None = None


class Resolved(parts.Part):
    """What the job document leaves open, settled once at submission so that every round agrees.

    `columns` are what is read (features and label, or a statistics job's columns), as all sites agreed on them;
    `listed` names those of which a site may have fewer categories; `unused` are the data set's other columns.
    `most_rows` is the largest site's, `rows` those of all together, where every site says how many it has. `privacy`:
    what its noisy rounds promise. `group`: the column by whose categories evaluations are told.
    """

    recipe: RecipeSpec
    features: tuple[str, ...]
    label: str | None
    weight_unit: int
    eligible: tuple[SiteId, ...]
    columns: tuple[Column, ...] = ()
    listed: tuple[str, ...] = ()
    unused: tuple[Unused, ...] = ()
    most_rows: int | None = None
    rows: int | None = None
    privacy: PrivacyTerms | None = None
    group: Column | None = None


@dataclass(frozen=True, slots=True)
class ValidJob:
    """A job that can run, what was settled for it, and what its author should know."""

    spec: AnySpec
    resolved: Resolved
    warnings: tuple[FieldError, ...]


def judge(document: Mapping[str, Any], world: World) -> ValidJob:
    """Return the verdict on a job document; raises `JobInvalid` with every error that was found."""
    findings = Findings()
    parsed = parse_fields(document, JobSpec, findings)
    if not world.federation_known and "federation_id" in parsed:
        findings.error("/federation_id", "there is no such federation")
    resolved = _resolve(parsed, world, findings)
    _check_rules(parsed, world, findings)
    recipe: parts.RecipePart | None = parsed.get("recipe")
    eligible = len(resolved.eligible) if resolved is not None else None
    check_buffer(parsed, recipe.params if recipe is not None else None, eligible, findings)
    check_kind(document, parsed, findings)
    terms = _settle_privacy(parsed, resolved, world, findings)
    spec = JobSpec.model_validate(document) if not findings.errors else None
    if spec is not None and resolved is not None:
        resolved = resolved.model_copy(update={"privacy": terms})
        _check_headroom(spec, resolved, world, findings)
    if findings.errors or spec is None or resolved is None:
        raise findings.refusal()
    return ValidJob(spec, resolved, tuple(findings.warnings))


def _resolve(parsed: Mapping[str, Any], world: World, findings: Findings) -> Resolved | None:
    recipe_part: parts.RecipePart | None = parsed.get("recipe")
    data: parts.DataPart | None = parsed.get("data")
    active = [site for site in world.sites if site.active and site.profile is not None]
    recipe = find_recipe(recipe_part.name, "/recipe/name", active, findings) if recipe_part else None
    sound = False
    if recipe_part and recipe:
        recipe_part = with_strategy(recipe_part, parsed.get("strategy"), recipe, findings)
        if recipe.task is Task.SUMMARY:
            findings.error("/recipe/name", f"the recipe {recipe.name!r} makes no model; set kind: statistics")
        sound = check_params(recipe, recipe_part.params, findings) and recipe.task is not Task.SUMMARY
    if data is None:
        return None
    if sound and recipe_part and recipe:
        if parsed.get("kind") == "evaluate":
            check_trained_with(recipe, recipe_part.params, world.trained_with, findings)
        check_watched(parsed.get("evaluation"), data, recipe, recipe_part.params, findings)
    holders = holders_of(data.dataset, active, findings)
    able = [site for site in holders if recipe is None or recipe in profile_of(site).recipes]
    chosen = choose_columns(data, recipe, able, world.trained, findings)
    check_cohort(parsed.get("cohort"), chosen.sites, findings)
    if recipe is None:
        return None
    if recipe_part and sound:
        label = next((column for column in chosen.columns if column.name == chosen.label), None)
        at_sites = declared_columns(data.dataset, chosen.label, chosen.sites) if chosen.label is not None else {}
        check_evaluation(recipe, recipe_part.params, label, at_sites, findings)
        features = [column for column in chosen.columns if column.name in chosen.features]
        event = event_of(recipe, recipe_part.params)
        events = declared_columns(data.dataset, event or "", chosen.sites)
        check_event(recipe, recipe_part.params, features, events, data.categories, findings)
        scaled = [column for column in chosen.columns if column.name != event]
        check_ranges(recipe, recipe_part.params, scaled, chosen.label, findings)
        if recipe.grows is not None and parsed.get("kind") != "evaluate":
            check_growth(parsed, recipe_part.params, features, findings)
        counts = [schema_of(site, data.dataset).rows for site in chosen.sites]
        check_rows(parsed.get("evaluation"), recipe, recipe_part.params, counts, findings)
        schemas = [schema_of(site, data.dataset) for site in chosen.sites]
        check_part(parsed.get("evaluation"), data, parsed.get("kind"), schemas, findings)
    update: parts.UpdatePart | None = parsed.get("update")
    return Resolved(
        recipe=recipe,
        features=chosen.features,
        label=chosen.label,
        weight_unit=_weight_unit(update, data, chosen.sites) if update else 1,
        eligible=tuple(sorted(site.id for site in chosen.sites)),
        columns=chosen.columns,
        listed=tuple(sorted(data.categories)),
        unused=chosen.unused,
        group=group_column(parsed.get("evaluation"), data, chosen, findings),
    )


def _check_rules(parsed: Mapping[str, Any], world: World, findings: Findings) -> None:
    check_protection(parsed.get("cohort"), parsed.get("engine"), world.engines, findings)
    strategy: parts.StrategyPart | None = parsed.get("strategy")
    check_proved(parsed.get("engine"), strategy, parsed.get("update"), world.engines, findings)
    check_rule(parsed.get("engine"), strategy, parsed.get("cohort"), parsed.get("update"), world.engines, findings)
    update, privacy = parsed.get("update"), parsed.get("privacy")
    check_compression(parsed.get("engine"), strategy, update, privacy, world.engines, findings)
    if strategy is not None:
        try:
            world.check_strategy(strategy.name, strategy.params)
        except Refusal as refusal:
            for error in refusal.errors:
                findings.error("/strategy/params" + error.path, error.message)
            if not refusal.errors:
                findings.error("/strategy/name", refusal.detail)
    model: parts.ModelPart | None = parsed.get("model")
    if model is not None and world.version_problem is not None:
        findings.error("/model/version_id", world.version_problem)
    evaluation: parts.EvaluationPart | None = parsed.get("evaluation")
    if evaluation is not None and evaluation.early_stop is not None and evaluation.every == 0:
        findings.error("/evaluation/every", "an early stop needs evaluations")


def _settle_privacy(
    parsed: Mapping[str, Any], resolved: Resolved | None, world: World, findings: Findings
) -> PrivacyTerms | None:
    asked: parts.PrivacyPart | None = parsed.get("privacy")
    if asked is None or not parsed.get("rounds") or (resolved is not None and resolved.recipe.grows is not None):
        return None
    check_training(asked, parsed.get("strategy"), parsed.get("update"), parsed.get("evaluation"), findings)
    if resolved is not None:
        recipe: parts.RecipePart | None = parsed.get("recipe")
        exact = recipe is not None and standardises(resolved.recipe, recipe.params)
        warn_standardising(asked, resolved.recipe, exact, findings)
    protected = _protected(parsed, asked, resolved, world, findings)
    facts = world.engines.get(parsed.get("engine", ""))
    return settle_terms(asked, parsed.get("cohort"), facts, protected, findings)


def _protected(
    parsed: Mapping[str, Any], asked: parts.PrivacyPart, resolved: Resolved | None, world: World, findings: Findings
) -> Protected:
    """Return what the job's noise protects, as far as it is known: sites, or records where the recipe adds it."""
    rounds: int = parsed["rounds"]
    if asked.model != "record":
        update: parts.UpdatePart | None = parsed.get("update")
        count = len(resolved.eligible) if resolved is not None else None
        clip = None if update is None else update.clip_norm
        return Protected(PrivacyUnit.SITE, count, rounds, clip_norm=clip, sites=count)
    data: parts.DataPart | None = parsed.get("data")
    recipe: parts.RecipePart | None = parsed.get("recipe")
    if resolved is None or data is None or recipe is None:
        return Protected(PrivacyUnit.RECORD, None, rounds)
    rows = [schema_of(site, data.dataset).rows for site in world.sites if site.id in resolved.eligible]
    strategy: parts.StrategyPart | None = parsed.get("strategy")
    set_by = {} if strategy is None else params_at_sites(strategy.name, strategy.params)
    steps = settle_steps(asked, resolved.recipe, {**recipe.params, **set_by}, rows, rounds, findings)
    return Protected(PrivacyUnit.RECORD, sum(count or 0 for count in rows) or None, rounds, steps)


def _check_headroom(spec: JobSpec, resolved: Resolved, world: World, findings: Findings) -> None:
    largest = largest_cohort(spec, resolved)
    try:
        world.check_encoding(largest, spec, resolved.privacy)
    except Refusal as refusal:
        findings.error("/update/modulus_bits", refusal.detail)


def largest_cohort(spec: JobSpec, resolved: Resolved) -> int:
    """Return how many sites may be in a round that trains at most, of those that were there at submission."""
    sites, noise = len(resolved.eligible), resolved.privacy.correlated if resolved.privacy is not None else None
    return turn_size(sites, 1 if noise is None else noise.separation, spec.cohort.max)


def _weight_unit(update: parts.UpdatePart, data: parts.DataPart, eligible: Sequence[SiteFacts]) -> int:
    """Examples per unit of weight, such that the largest site's weight fits where rows are known."""
    if update.weight_unit is not None:
        return update.weight_unit
    rows = max((schema_of(site, data.dataset).rows or 1 for site in eligible), default=1)
    return max(1, -(-rows // update.max_weight))


def absence(site: SiteFacts, spec: AnySpec, resolved: Resolved, job_id: str | None = None) -> str | None:
    """Return why the site, as it is now, cannot do this job's rounds; None where it can.

    With `job_id` also where its owner has not consented to the job.
    """
    reason = _inability(site, spec, resolved)
    return reason if reason is not None or job_id is None else CONSENTS.get(consent_of(site, job_id) or "")


def _inability(site: SiteFacts, spec: AnySpec, resolved: Resolved) -> str | None:
    if not site.active or site.profile is None:
        return lacks_dataset(site, spec.data.dataset)
    if (cannot := disability(site.profile)) is not None:
        return cannot
    dataset = dataset_of(site, spec.data.dataset)
    if dataset is None:
        return lacks_dataset(site, spec.data.dataset)
    if all(recipe.digest != resolved.recipe.digest for recipe in site.profile.recipes):
        return f"it lacks the recipe {resolved.recipe.name!r} in the form that the job uses"
    own = {column.name: column for column in dataset.columns}
    wanted = (*resolved.features, *([resolved.label] if resolved.label is not None else []))
    if missing := [name for name in wanted if name not in own]:
        return f"its data set {dataset.name!r} has no column {', '.join(missing)}{twins(missing, own)}"
    misfits = (misfit(own[column.name], column, listed=column.name in resolved.listed) for column in resolved.columns)
    return next((fault for fault in misfits if fault is not None), None)
