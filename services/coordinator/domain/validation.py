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
from referencing import Registry
from referencing.exceptions import Unresolvable

from services.coordinator.domain import spec as parts
from services.coordinator.domain.spec import JobSpec
from shared.errors import FieldError, Invalid, Refusal
from shared.ids import SiteId
from shared.secagg.engines import EngineFacts
from shared.wire.profiles import Column, DatasetSchema, RecipeSpec, SiteProfile

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
    """What the job document leaves open, settled once at submission so that every round agrees."""

    recipe: RecipeSpec
    features: tuple[str, ...]
    label: str | None
    weight_unit: int
    eligible: tuple[SiteId, ...]


@dataclass
class _Findings:
    errors: list[FieldError] = field(default_factory=list)
    warnings: list[FieldError] = field(default_factory=list)

    def error(self, path: str, message: str) -> None:
        self.errors.append(FieldError(path, message))

    def warn(self, path: str, message: str) -> None:
        self.warnings.append(FieldError(path, message))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A job that can run, what was settled for it, and what its author should know."""

    spec: JobSpec
    resolved: Resolved
    warnings: tuple[FieldError, ...]


def judge(document: Mapping[str, Any], world: World) -> Verdict:
    """The verdict on a job document; raises `JobInvalid` with every error that was found."""
    findings = _Findings()
    parsed = _parse(document, findings)
    if not world.federation_known and "federation_id" in parsed:
        findings.error("/federation_id", "there is no such federation")
    resolved = _resolve(parsed, world, findings)
    _check_rules(parsed, world, findings)
    spec = JobSpec.model_validate(document) if not findings.errors else None
    if spec is not None and resolved is not None:
        _check_headroom(spec, resolved, world, findings)
    if findings.errors or spec is None or resolved is None:
        count = len(findings.errors)
        raise JobInvalid(
            f"The job has {count} error{'s' if count != 1 else ''}.",
            errors=findings.errors[:MAX_ERRORS],
            warnings=[{"path": warning.path, "message": warning.message} for warning in findings.warnings],
        )
    return Verdict(spec, resolved, tuple(findings.warnings))


def pointer(path: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901) to a place in the document."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _parse(document: Mapping[str, Any], findings: _Findings) -> dict[str, Any]:
    """The fields that are well formed; the others' errors go to the findings."""
    parsed: dict[str, Any] = {}
    for name, info in JobSpec.model_fields.items():
        if name not in document:
            if info.is_required():
                findings.error(f"/{name}", "this field is required")
            else:
                parsed[name] = info.get_default(call_default_factory=True)
            continue
        adapter: TypeAdapter[Any] = TypeAdapter(_annotation(name))
        try:
            parsed[name] = adapter.validate_python(document[name])
        except ValidationError as error:
            for item in error.errors(include_url=False, include_input=False, include_context=False):
                findings.error(pointer([name, *item["loc"]]), item["msg"])
    for name in document:
        if name not in JobSpec.model_fields:
            findings.error(pointer([name]), "there is no such field")
    return parsed


def _annotation(name: str) -> Any:
    """The field's type with its constraints."""
    info = JobSpec.model_fields[name]
    annotation: Any = info.annotation
    for constraint in info.metadata:
        annotation = Annotated[annotation, constraint]
    return annotation


def _resolve(parsed: Mapping[str, Any], world: World, findings: _Findings) -> Resolved | None:
    recipe_part: parts.RecipePart | None = parsed.get("recipe")
    data: parts.DataPart | None = parsed.get("data")
    active = [site for site in world.sites if site.active and site.profile is not None]
    recipe = _find_recipe(recipe_part, active, findings) if recipe_part else None
    if recipe_part and recipe:
        _check_params(recipe, recipe_part.params, findings)
    if data is None:
        return None
    holders = _holders(data, active, findings)
    features = _features(data, holders, findings)
    able = [site for site in holders if recipe is None or recipe in _profile(site).recipes]
    eligible = _with_columns(data, features, able, findings)
    _check_cohort(parsed.get("cohort"), eligible, findings)
    if recipe is None:
        return None
    update: parts.UpdatePart | None = parsed.get("update")
    unit = _weight_unit(update, data, eligible) if update else 1
    return Resolved(
        recipe=recipe,
        features=features,
        label=data.label if data.label is not None else _common_label(data, eligible),
        weight_unit=unit,
        eligible=tuple(sorted(site.id for site in eligible)),
    )


def _find_recipe(part: parts.RecipePart, sites: Sequence[SiteFacts], findings: _Findings) -> RecipeSpec | None:
    """The form of the recipe that most sites have; the same name may stand for other code elsewhere."""
    found = [spec for site in sites for spec in _profile(site).recipes if spec.name == part.name]
    if not found:
        known = sorted({spec.name for site in sites for spec in _profile(site).recipes})
        has = f"; they have {', '.join(known)}" if known else "; no site has told its recipes yet"
        findings.error("/recipe/name", f"no active site has the recipe {part.name!r}{has}")
        return None
    by_digest = Counter(spec.digest for spec in found)
    chosen, _ = max(by_digest.items(), key=lambda item: (item[1], item[0]))
    if len(by_digest) > 1:
        findings.warn("/recipe/name", f"sites have {len(by_digest)} different forms of it; {chosen[:12]}… is used")
    return next(spec for spec in found if spec.digest == chosen)


def _check_params(recipe: RecipeSpec, params: Mapping[str, Any], findings: _Findings) -> None:
    # An empty registry keeps a site's schema from making us fetch what it refers to.
    validator = Draft202012Validator(recipe.params_schema, registry=Registry())
    try:
        Draft202012Validator.check_schema(recipe.params_schema)
        found: list[ParamsError] = list(validator.iter_errors(dict(params)))
    except (SchemaError, Unresolvable) as error:
        findings.error("/recipe/name", f"the recipe's own parameter schema cannot be used: {type(error).__name__}")
        return
    for problem in sorted(found, key=lambda error: [str(part) for part in error.path])[:MAX_ERRORS]:
        findings.error(pointer(["recipe", "params", *problem.absolute_path]), problem.message[:500])


def _holders(data: parts.DataPart, sites: Sequence[SiteFacts], findings: _Findings) -> list[SiteFacts]:
    holders = [site for site in sites if _dataset(site, data.dataset) is not None]
    if not holders:
        known = sorted({schema.name for site in sites for schema in _profile(site).datasets})
        has = f"; they have {', '.join(known)}" if known else "; no site has told its data sets yet"
        findings.error("/data/dataset", f"no active site has the data set {data.dataset!r}{has}")
    return holders


def _features(data: parts.DataPart, holders: Sequence[SiteFacts], findings: _Findings) -> tuple[str, ...]:
    """The columns that are asked for, or every numeric one that all holders have, in the first holder's order."""
    if data.features is not None:
        if len(set(data.features)) != len(data.features):
            findings.error("/data/features", "a column is named twice")
        if data.label is not None and data.label in data.features:
            findings.error("/data/features", f"the label {data.label!r} cannot be a feature too")
        return data.features
    schemas = [_schema(site, data.dataset) for site in holders]
    if not schemas:
        return ()
    common = set.intersection(*({column.name for column in schema.columns if _usable(column)} for schema in schemas))
    labels = {data.label} | {schema.label for schema in schemas}
    return tuple(column.name for column in schemas[0].columns if column.name in common - labels)


def _usable(column: Column) -> bool:
    return column.type == "number"


def _with_columns(
    data: parts.DataPart, features: Sequence[str], sites: Sequence[SiteFacts], findings: _Findings
) -> list[SiteFacts]:
    """The sites that have every column. Others are left out, which is an error where nobody has the column."""
    wanted = [(f"/data/features/{at}", name) for at, name in enumerate(features) if data.features is not None]
    if data.label is not None:
        wanted.append(("/data/label", data.label))
    lacking: dict[tuple[str, str], list[SiteFacts]] = {}
    for place in wanted:
        lacking[place] = [site for site in sites if place[1] not in _columns(site, data.dataset)]
    for (path, name), without in lacking.items():
        if not without:
            continue
        if len(without) == len(sites):
            findings.error(path, f"no site's data set {data.dataset!r} has the column {name!r}")
        else:
            names = ", ".join(site.name for site in without)
            findings.warn(path, f"the column {name!r} is missing at {names}, which will not take part")
    out = {site.id for without in lacking.values() for site in without}
    return [site for site in sites if site.id not in out]


def _check_cohort(cohort: parts.CohortPart | None, eligible: Sequence[SiteFacts], findings: _Findings) -> None:
    if cohort is None:
        return
    if len(eligible) < cohort.min:
        missing = "; ".join(warning.message for warning in findings.warnings)
        findings.error(
            "/cohort/min",
            f"{len(eligible)} active sites have this recipe, data set and columns, and {cohort.min} are needed"
            + (f" ({missing})" if missing else ""),
        )


def _check_rules(parsed: Mapping[str, Any], world: World, findings: _Findings) -> None:
    cohort: parts.CohortPart | None = parsed.get("cohort")
    if cohort is not None:
        if cohort.max is not None and cohort.max < cohort.min:
            findings.error("/cohort/max", f"must not be less than min, which is {cohort.min}")
        if cohort.min < parts.MIN_COHORT and not cohort.allow_small:
            findings.error(
                "/cohort/min",
                f"at least {parts.MIN_COHORT}: with two, each could subtract itself from the sum. "
                "Set cohort.allow_small to do it all the same.",
            )
    engine: str | None = parsed.get("engine")
    if engine is not None and engine not in world.engines:
        findings.error("/engine", f"there is no engine {engine!r}; there are {', '.join(sorted(world.engines))}")
    elif engine is not None and cohort is not None and cohort.min < world.engines[engine].smallest:
        findings.error(
            "/engine",
            f"{engine} needs cohort.min of at least {world.engines[engine].smallest}; for fewer sites name another "
            "engine, such as sealed, with which the aggregator sees each update",
        )
    strategy: parts.StrategyPart | None = parsed.get("strategy")
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


def _check_early_stop(evaluation: parts.EvaluationPart | None, findings: _Findings) -> None:
    if evaluation is not None and evaluation.early_stop is not None and evaluation.every == 0:
        findings.error("/evaluation/every", "an early stop needs evaluations")


def _check_headroom(spec: JobSpec, resolved: Resolved, world: World, findings: _Findings) -> None:
    largest = min(len(resolved.eligible), spec.cohort.max or len(resolved.eligible))
    try:
        world.check_encoding(largest, spec)
    except Refusal as refusal:
        findings.error("/update/modulus_bits", refusal.detail)


def _weight_unit(update: parts.UpdatePart, data: parts.DataPart, eligible: Sequence[SiteFacts]) -> int:
    """Examples per unit of weight, such that the largest site's weight fits where rows are known."""
    if update.weight_unit is not None:
        return update.weight_unit
    rows = max((_schema(site, data.dataset).rows or 1 for site in eligible), default=1)
    return max(1, -(-rows // update.max_weight))


def _common_label(data: parts.DataPart, eligible: Sequence[SiteFacts]) -> str | None:
    labels = {_schema(site, data.dataset).label for site in eligible}
    return labels.pop() if len(labels) == 1 else None


def _profile(site: SiteFacts) -> SiteProfile:
    if site.profile is None:
        raise ValueError("a site without a profile is not eligible")
    return site.profile


def _dataset(site: SiteFacts, name: str) -> DatasetSchema | None:
    return next((schema for schema in _profile(site).datasets if schema.name == name), None)


def _schema(site: SiteFacts, name: str) -> DatasetSchema:
    found = _dataset(site, name)
    if found is None:
        raise ValueError("a site without the data set is not eligible")
    return found


def _columns(site: SiteFacts, dataset: str) -> set[str]:
    return {column.name for column in _schema(site, dataset).columns}


def can_take_part(site: SiteFacts, spec: JobSpec, resolved: Resolved) -> bool:
    """Whether the site, as it is now, can do this job's rounds."""
    if not site.active or site.profile is None:
        return False
    dataset = _dataset(site, spec.data.dataset)
    if dataset is None or all(recipe.digest != resolved.recipe.digest for recipe in site.profile.recipes):
        return False
    wanted = set(resolved.features) | ({resolved.label} if resolved.label is not None else set())
    return wanted <= {column.name for column in dataset.columns}
