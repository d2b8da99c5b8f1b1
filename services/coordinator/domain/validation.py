"""Is this job one that can run? Every error at once, each with the path of the field that is wrong.

The document's parts are checked one by one, so that a mistake in one does not hide what is wrong with another.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeVar

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.exceptions import ValidationError as ParamsError
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from referencing import Registry
from referencing.exceptions import Unresolvable

from services.coordinator.domain import spec as parts
from services.coordinator.domain.evaluation import check_evaluation
from services.coordinator.domain.spec import AnySpec, JobSpec
from shared.errors import FieldError, Invalid, Refusal
from shared.ids import SiteId
from shared.secagg.engines import EngineFacts
from shared.wire.profiles import Column, DatasetSchema, RecipeSpec, SiteProfile, Task

P = TypeVar("P", bound=BaseModel)
MAX_ERRORS: Final = 100


class JobInvalid(Invalid):
    """The job cannot run as it stands."""


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What the coordinator knows of one site when it judges a job."""

    id: SiteId
    name: str
    active: bool
    profile: SiteProfile | None


@dataclass(frozen=True, slots=True)
class World:
    """What a job is judged against. `plan_encoding` raises a Refusal where sums have no headroom."""

    federation_known: bool
    sites: Sequence[SiteFacts]
    engines: Mapping[str, EngineFacts]
    check_strategy: Callable[[str, Mapping[str, Any]], object]
    check_encoding: Callable[[int, JobSpec], object]
    version_problem: str | None = None


class Resolved(parts.Part):
    """What the job document leaves open, settled once at submission so that every round agrees.

    `columns` are a statistics job's, as all of its sites can be asked for them; `most_rows` is the largest site's,
    where every site says how many it has.
    """

    recipe: RecipeSpec
    features: tuple[str, ...]
    label: str | None
    weight_unit: int
    eligible: tuple[SiteId, ...]
    columns: tuple[Column, ...] = ()
    most_rows: int | None = None


@dataclass
class Findings:
    """What was found wrong, and what only deserves a word."""

    errors: list[FieldError] = field(default_factory=list)
    warnings: list[FieldError] = field(default_factory=list)

    def error(self, path: str, message: str) -> None:
        """Add something that the job cannot run with."""
        self.errors.append(FieldError(path, message))

    def warn(self, path: str, message: str) -> None:
        """Add something that its author should know."""
        self.warnings.append(FieldError(path, message))

    def refusal(self) -> JobInvalid:
        """All errors as one refusal."""
        count = len(self.errors)
        return JobInvalid(
            f"The job has {count} error{'s' if count != 1 else ''}.",
            errors=self.errors[:MAX_ERRORS],
            warnings=[{"path": warning.path, "message": warning.message} for warning in self.warnings],
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """A job that can run, what was settled for it, and what its author should know."""

    spec: AnySpec
    resolved: Resolved
    warnings: tuple[FieldError, ...]


def judge(document: Mapping[str, Any], world: World) -> Verdict:
    """The verdict on a job document; raises `JobInvalid` with every error that was found."""
    findings = Findings()
    parsed = parse_fields(document, JobSpec, findings)
    if not world.federation_known and "federation_id" in parsed:
        findings.error("/federation_id", "there is no such federation")
    resolved = _resolve(parsed, world, findings)
    _check_rules(parsed, world, findings)
    spec = JobSpec.model_validate(document) if not findings.errors else None
    if spec is not None and resolved is not None:
        _check_headroom(spec, resolved, world, findings)
    if findings.errors or spec is None or resolved is None:
        raise findings.refusal()
    return Verdict(spec, resolved, tuple(findings.warnings))


def pointer(path: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901) to a place in the document."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def parse_fields(document: Mapping[str, Any], form: type[BaseModel], findings: Findings) -> dict[str, Any]:
    """The fields that are well formed; the others' errors go to the findings."""
    parsed: dict[str, Any] = {}
    for name, info in form.model_fields.items():
        if name not in document:
            if info.is_required():
                findings.error(f"/{name}", "this field is required")
            else:
                parsed[name] = info.get_default(call_default_factory=True)
            continue
        adapter: TypeAdapter[Any] = TypeAdapter(_annotation(info))
        try:
            parsed[name] = adapter.validate_python(document[name])
        except ValidationError as error:
            for item in error.errors(include_url=False, include_input=False, include_context=False):
                findings.error(pointer([name, *item["loc"]]), item["msg"])
    for name in document:
        if name not in form.model_fields:
            findings.error(pointer([name]), "there is no such field")
    return parsed


def _annotation(info: FieldInfo) -> Any:
    """The field's type with its constraints."""
    annotation: Any = info.annotation
    for constraint in info.metadata:
        annotation = Annotated[annotation, constraint]
    return annotation


def _resolve(parsed: Mapping[str, Any], world: World, findings: Findings) -> Resolved | None:
    recipe_part: parts.RecipePart | None = parsed.get("recipe")
    data: parts.DataPart | None = parsed.get("data")
    active = [site for site in world.sites if site.active and site.profile is not None]
    recipe = find_recipe(recipe_part.name, "/recipe/name", active, findings) if recipe_part else None
    sound = True
    if recipe_part and recipe:
        if recipe.task is Task.SUMMARY:
            findings.error("/recipe/name", f"the recipe {recipe.name!r} makes no model; set kind: statistics")
        sound = _check_params(recipe, recipe_part.params, findings)
    if data is None:
        return None
    holders = holders_of(data.dataset, active, findings)
    features = _features(data, holders, findings)
    able = [site for site in holders if recipe is None or recipe in profile_of(site).recipes]
    eligible = _with_columns(data, features, able, findings)
    check_cohort(parsed.get("cohort"), eligible, findings)
    if recipe is None:
        return None
    update: parts.UpdatePart | None = parsed.get("update")
    unit = _weight_unit(update, data, eligible) if update else 1
    label = data.label if data.label is not None else _common_label(data, eligible)
    if recipe_part and recipe.task is not Task.SUMMARY and sound:
        check_evaluation(recipe, recipe_part.params, _label_columns(data, label, eligible), findings.error)
    return Resolved(
        recipe=recipe,
        features=features,
        label=label,
        weight_unit=unit,
        eligible=tuple(sorted(site.id for site in eligible)),
    )


def find_recipe(name: str, path: str, sites: Sequence[SiteFacts], findings: Findings) -> RecipeSpec | None:
    """The form of the recipe that most sites have; the same name may stand for other code elsewhere."""
    found = [spec for site in sites for spec in profile_of(site).recipes if spec.name == name]
    if not found:
        known = sorted({spec.name for site in sites for spec in profile_of(site).recipes})
        has = f"; they have {', '.join(known)}" if known else "; no site has told its recipes yet"
        findings.error(path, f"no active site has the recipe {name!r}{has}")
        return None
    by_digest = Counter(spec.digest for spec in found)
    chosen, _ = max(by_digest.items(), key=lambda item: (item[1], item[0]))
    if len(by_digest) > 1:
        findings.warn(path, f"sites have {len(by_digest)} different forms of it; {chosen[:12]}… is used")
    return next(spec for spec in found if spec.digest == chosen)


def _check_params(recipe: RecipeSpec, params: Mapping[str, Any], findings: Findings) -> bool:
    """Check the parameters against the recipe's schema; whether they fit."""
    # An empty registry keeps a site's schema from making us fetch what it refers to.
    validator = Draft202012Validator(recipe.params_schema, registry=Registry())
    try:
        Draft202012Validator.check_schema(recipe.params_schema)
        found: list[ParamsError] = list(validator.iter_errors(dict(params)))
    except (SchemaError, Unresolvable) as error:
        findings.error("/recipe/name", f"the recipe's own parameter schema cannot be used: {type(error).__name__}")
        return False
    for problem in sorted(found, key=lambda error: [str(part) for part in error.path])[:MAX_ERRORS]:
        findings.error(pointer(["recipe", "params", *problem.absolute_path]), problem.message[:500])
    return not found


def holders_of(dataset: str, sites: Sequence[SiteFacts], findings: Findings) -> list[SiteFacts]:
    """The sites that have the data set; an error where there is none."""
    holders = [site for site in sites if _dataset(site, dataset) is not None]
    if not holders:
        known = sorted({schema.name for site in sites for schema in profile_of(site).datasets})
        has = f"; they have {', '.join(known)}" if known else "; no site has told its data sets yet"
        findings.error("/data/dataset", f"no active site has the data set {dataset!r}{has}")
    return holders


def _features(data: parts.DataPart, holders: Sequence[SiteFacts], findings: Findings) -> tuple[str, ...]:
    """The columns that are asked for, or every numeric one that all holders have, in the first holder's order."""
    if data.features is not None:
        if len(set(data.features)) != len(data.features):
            findings.error("/data/features", "a column is named twice")
        if data.label is not None and data.label in data.features:
            findings.error("/data/features", f"the label {data.label!r} cannot be a feature too")
        return data.features
    schemas = [schema_of(site, data.dataset) for site in holders]
    if not schemas:
        return ()
    common = set.intersection(*({column.name for column in schema.columns if _usable(column)} for schema in schemas))
    labels = {data.label} | {schema.label for schema in schemas}
    return tuple(column.name for column in schemas[0].columns if column.name in common - labels)


def _usable(column: Column) -> bool:
    return column.type == "number"


def _with_columns(
    data: parts.DataPart, features: Sequence[str], sites: Sequence[SiteFacts], findings: Findings
) -> list[SiteFacts]:
    """The sites that have every column. Others are left out, which is an error where nobody has the column."""
    wanted = [(f"/data/features/{at}", name) for at, name in enumerate(features) if data.features is not None]
    if data.label is not None:
        wanted.append(("/data/label", data.label))
    return having(wanted, data.dataset, sites, findings)


def having(
    wanted: Sequence[tuple[str, str]], dataset: str, sites: Sequence[SiteFacts], findings: Findings
) -> list[SiteFacts]:
    """The sites that have all columns, of which each is asked for at a path of the document."""
    lacking = {place: [site for site in sites if place[1] not in columns_of(site, dataset)] for place in wanted}
    for (path, name), without in lacking.items():
        if not without:
            continue
        if len(without) == len(sites):
            findings.error(path, f"no site's data set {dataset!r} has the column {name!r}")
        else:
            names = ", ".join(site.name for site in without)
            findings.warn(path, f"the column {name!r} is missing at {names}, which will not take part")
    out = {site.id for without in lacking.values() for site in without}
    return [site for site in sites if site.id not in out]


def check_cohort(cohort: parts.CohortPart | None, eligible: Sequence[SiteFacts], findings: Findings) -> None:
    """Whether enough sites can take part."""
    if cohort is None:
        return
    if len(eligible) < cohort.min:
        missing = "; ".join(warning.message for warning in findings.warnings)
        findings.error(
            "/cohort/min",
            f"{len(eligible)} active sites have this recipe, data set and columns, and {cohort.min} are needed"
            + (f" ({missing})" if missing else ""),
        )


def check_protection(cohort: parts.CohortPart | None, engine: str | None, world: World, findings: Findings) -> None:
    """Whether cohort and engine protect the sites that take part."""
    if cohort is not None:
        if cohort.max is not None and cohort.max < cohort.min:
            findings.error("/cohort/max", f"must not be less than min, which is {cohort.min}")
        if cohort.min < parts.MIN_COHORT and not cohort.allow_small:
            findings.error(
                "/cohort/min",
                f"at least {parts.MIN_COHORT}: with two, each could subtract itself from the sum. "
                "Set cohort.allow_small to do it all the same.",
            )
    if engine is not None and engine not in world.engines:
        findings.error("/engine", f"there is no engine {engine!r}; there are {', '.join(sorted(world.engines))}")
    elif engine is not None and cohort is not None and cohort.min < world.engines[engine].smallest:
        findings.error(
            "/engine",
            f"{engine} needs cohort.min of at least {world.engines[engine].smallest}; for fewer sites name another "
            "engine, such as sealed, with which the aggregator sees each update",
        )


def _check_rules(parsed: Mapping[str, Any], world: World, findings: Findings) -> None:
    check_protection(parsed.get("cohort"), parsed.get("engine"), world, findings)
    strategy: parts.StrategyPart | None = parsed.get("strategy")
    _check_proved(parsed.get("engine"), strategy, parsed.get("update"), world, findings)
    if strategy is not None:
        try:
            world.check_strategy(strategy.name, strategy.params)
        except Refusal as refusal:
            for error in refusal.errors or [FieldError("/name", refusal.detail)]:
                findings.error("/strategy" + error.path, error.message)
    model: parts.ModelPart | None = parsed.get("model")
    if model is not None and world.version_problem is not None:
        findings.error("/model/version_id", world.version_problem)
    _check_early_stop(parsed.get("evaluation"), findings)


def _check_proved(
    engine: str | None,
    strategy: parts.StrategyPart | None,
    update: parts.UpdatePart | None,
    world: World,
    findings: Findings,
) -> None:
    """What an author should know of an engine that proves norms."""
    if engine is None or engine not in world.engines:
        return
    if not world.engines[engine].helped:
        if update is not None and update.noise_multiplier is not None:
            findings.error("/update/noise_multiplier", f"with {engine} no server adds noise; twoserver does")
        if update is not None and update.norm_equality_proofs is not None:
            findings.error("/update/norm_equality_proofs", f"with {engine} no norm is proved; twoserver proves it")
        return
    if strategy is not None and strategy.weighting != "equal":
        findings.warn("/strategy/weighting", f"with {engine} every site weighs the same, whatever its examples")
    if update is not None and update.clip_norm is None:
        findings.warn(
            "/update/clip_norm", f"{engine} proves an L2 norm: without clip_norm it is update.bound, {update.bound:g}"
        )


def _check_early_stop(evaluation: parts.EvaluationPart | None, findings: Findings) -> None:
    if evaluation is not None and evaluation.early_stop is not None and evaluation.every == 0:
        findings.error("/evaluation/every", "an early stop needs evaluations")


def _check_headroom(spec: JobSpec, resolved: Resolved, world: World, findings: Findings) -> None:
    largest = min(len(resolved.eligible), spec.cohort.max or len(resolved.eligible))
    try:
        world.check_encoding(largest, spec)
    except Refusal as refusal:
        findings.error("/update/modulus_bits", refusal.detail)


def _weight_unit(update: parts.UpdatePart, data: parts.DataPart, eligible: Sequence[SiteFacts]) -> int:
    """Examples per unit of weight, such that the largest site's weight fits where rows are known."""
    if update.weight_unit is not None:
        return update.weight_unit
    rows = max((schema_of(site, data.dataset).rows or 1 for site in eligible), default=1)
    return max(1, -(-rows // update.max_weight))


def _common_label(data: parts.DataPart, eligible: Sequence[SiteFacts]) -> str | None:
    labels = {schema_of(site, data.dataset).label for site in eligible}
    return labels.pop() if len(labels) == 1 else None


def _label_columns(data: parts.DataPart, label: str | None, eligible: Sequence[SiteFacts]) -> list[tuple[str, Column]]:
    found = [(site.name, column) for site in eligible for column in schema_of(site, data.dataset).columns]
    return [(name, column) for name, column in found if column.name == label]


def profile_of(site: SiteFacts) -> SiteProfile:
    """What the site told about itself; it must have."""
    if site.profile is None:
        raise ValueError("a site without a profile is not eligible")
    return site.profile


def _dataset(site: SiteFacts, name: str) -> DatasetSchema | None:
    return next((schema for schema in profile_of(site).datasets if schema.name == name), None)


def schema_of(site: SiteFacts, name: str) -> DatasetSchema:
    """The site's data set; it must have it."""
    found = _dataset(site, name)
    if found is None:
        raise ValueError("a site without the data set is not eligible")
    return found


def columns_of(site: SiteFacts, dataset: str) -> set[str]:
    """The names of the data set's columns at the site."""
    return {column.name for column in schema_of(site, dataset).columns}


def can_take_part(site: SiteFacts, spec: AnySpec, resolved: Resolved) -> bool:
    """Whether the site, as it is now, can do this job's rounds."""
    if not site.active or site.profile is None:
        return False
    dataset = _dataset(site, spec.data.dataset)
    if dataset is None or all(recipe.digest != resolved.recipe.digest for recipe in site.profile.recipes):
        return False
    wanted = set(resolved.features) | ({resolved.label} if resolved.label is not None else set())
    return wanted <= {column.name for column in dataset.columns}
