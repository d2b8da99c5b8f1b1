"""The recipe that a job names: in which form the sites have it, and whether its parameters fit."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from jsonschema import Draft202012Validator, TypeChecker
from jsonschema.exceptions import SchemaError
from jsonschema.exceptions import ValidationError as ParamsError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from undersong.services.coordinator.domain import parts
from undersong.services.coordinator.domain.findings import MAX_ERRORS, Findings
from undersong.services.coordinator.domain.sites import TOLD, SiteFacts, profile_of
from undersong.shared.documents import pointer
from undersong.shared.learning.metrics import LayoutUnknown, evaluation_layout, setting
from undersong.shared.learning.strategies import STRATEGIES, params_at_sites
from undersong.shared.names import hint
from undersong.shared.statistics.vocabulary import settled
from undersong.shared.wire.columns import Column
from undersong.shared.wire.profiles import ABOUT_TRAINING, RecipeSpec, Task

_RANGES: Final = "ranges"


def _is_whole(_: TypeChecker, value: object) -> bool:
    """Return whether a value is whole in type too: recipes count by it, and 2.0 counts nothing."""
    return isinstance(value, int) and not isinstance(value, bool)


_Validator: Final = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_whole)
)
_SET_BY: Final = frozenset(name for one in STRATEGIES.values() for name in one.at_sites(one.defaults))
"""Parameters of recipes that follow from a job's strategy."""


def find_recipe(name: str, path: str, sites: Sequence[SiteFacts], findings: Findings) -> RecipeSpec | None:
    """Return the form of the recipe that most sites have; the same name may stand for other code elsewhere."""
    found = [spec for site in sites for spec in profile_of(site).recipes if spec.name == name]
    if not found:
        known = {spec.name for site in sites for spec in profile_of(site).recipes}
        has = hint(name, known) if known else "; no site has told its recipes yet"
        findings.error(path, f"no active site has the recipe {name!r}{has}{TOLD}")
        return None
    by_digest = Counter(spec.digest for spec in found)
    chosen, _ = max(by_digest.items(), key=lambda item: (item[1], item[0]))
    if len(by_digest) > 1:
        findings.warn(path, f"sites have {len(by_digest)} different forms of it; {chosen[:12]}… is used")
    return next(spec for spec in found if spec.digest == chosen)


def check_params(recipe: RecipeSpec, params: Mapping[str, Any], findings: Findings) -> bool:
    """Check the parameters against the recipe's schema; whether they fit."""
    return _check(recipe.params_schema, params, findings)


def with_strategy(
    part: parts.RecipePart, strategy: parts.StrategyPart | None, recipe: RecipeSpec, findings: Findings
) -> parts.RecipePart:
    """Return the recipe's part with the parameters that the strategy sets; say where the recipe does not know them."""
    for name in sorted(part.params.keys() & _SET_BY):
        said = "is set by the strategy: leave it out, and name strategy.name: fednova or qfedavg"
        findings.error(pointer(["recipe", "params", name]), said)
    given = {} if strategy is None else params_at_sites(strategy.name, strategy.params)
    known = recipe.params_schema.get("properties")
    if strategy is None or not given:
        return part
    if not isinstance(known, Mapping) or not given.keys() <= known.keys():
        findings.error(
            "/strategy/name",
            f"sites would scale their updates for {strategy.name}, and the recipe {recipe.name!r} cannot: take fedavg, "
            "or a recipe that trains with torch",
        )
        return part
    return part.model_copy(update={"params": {**part.params, **given}})


def check_trained_with(
    recipe: RecipeSpec, params: Mapping[str, Any], trained_with: Mapping[str, Any] | None, findings: Findings
) -> None:
    """Check that a version is evaluated with the parameters that it was trained with, where these say what it is."""
    properties = recipe.params_schema.get("properties")
    if trained_with is None or not isinstance(properties, Mapping):
        return
    for name, entry in properties.items():
        if not isinstance(entry, Mapping) or entry.get("$comment") == ABOUT_TRAINING or name == _RANGES:
            continue
        before, now = trained_with.get(name, entry.get("default")), params.get(name, entry.get("default"))
        if before != now:
            path = pointer(["recipe", "params", name])
            findings.error(path, f"the version was trained with {name}: {json.dumps(before)}; give the same")


def standardises(recipe: RecipeSpec, params: Mapping[str, Any]) -> bool:
    """Return whether a training job adds up its columns before it trains: not where the job says what would follow."""
    return recipe.statistics and not params.get(given_instead(recipe))


def given_instead(recipe: RecipeSpec) -> str:
    """Return the parameter that makes those sums needless: ranges of columns, or a vocabulary."""
    return _RANGES if recipe.reduces is None else recipe.reduces


def context_of(recipe: RecipeSpec, params: Mapping[str, Any], sums: Sequence[float]) -> dict[str, list[float]]:
    """Return what sites are told of the sums that a training job opened before it trains; raises a `Refusal`."""
    if recipe.reduces is None:
        return {"statistics": list(sums)}
    return settled(sums, {name: setting(recipe, params, name) for name in ("vocabulary_size", "min_sites")})


def check_ranges(
    recipe: RecipeSpec, params: Mapping[str, Any], columns: Sequence[Column], label: str | None, findings: Findings
) -> None:
    """Check that declared ranges, where there are some, are those of the numbers that the job scales."""
    ranges = params.get(_RANGES)
    if not (recipe.statistics or recipe.grows) or not isinstance(ranges, Mapping) or not ranges:
        return
    try:
        regression = evaluation_layout(recipe, params) == Task.REGRESSION
    except LayoutUnknown:
        return
    scaled = [column for column in columns if regression or column.name != label]
    numbers = [column.name for column in scaled if column.type != "category"]
    for name, (low, high) in ranges.items():
        path = pointer(["recipe", "params", _RANGES, name])
        if name not in numbers:
            findings.error(path, f"no number called {name!r} is read{hint(name, numbers)}")
        elif not low < high:
            findings.error(path, "the first number must be less than the second")
    if missing := [name for name in numbers if name not in ranges]:
        said = f"also give the range of {', '.join(missing)}: without it the column cannot be scaled"
        findings.error(pointer(["recipe", "params", _RANGES]), said)


def check_record_params(recipe: RecipeSpec, params: Mapping[str, Any], findings: Findings) -> bool:
    """Check the parameters, with their defaults, against what the recipe needs to protect records; whether they fit."""
    return _check(recipe.record_params or {}, params, findings, "to protect records, ")


def _check(schema: Mapping[str, Any], params: Mapping[str, Any], findings: Findings, why: str = "") -> bool:
    # An empty registry keeps a site's schema from making us fetch what it refers to.
    validator = _Validator(schema, registry=Registry())
    try:
        _Validator.check_schema(schema)
        found: list[ParamsError] = list(validator.iter_errors(dict(params)))
    except (SchemaError, Unresolvable) as error:
        findings.error("/recipe/name", f"the recipe's own parameter schema cannot be used: {type(error).__name__}")
        return False
    for problem in sorted(found, key=lambda error: [str(part) for part in error.path])[:MAX_ERRORS]:
        findings.error(pointer(["recipe", "params", *problem.absolute_path]), why + _message(problem))
    return not found


def _message(problem: ParamsError) -> str:
    """Return jsonschema's message, with near matches for a misspelt parameter or choice."""
    message, instance = problem.message[:500], problem.instance
    if problem.validator == "additionalProperties" and isinstance(instance, Mapping):
        known = problem.schema.get("properties", {}) if isinstance(problem.schema, Mapping) else {}
        unknown = sorted(set(instance) - set(known))
        if known and unknown:
            return "; ".join(f"there is no parameter {name!r}{hint(name, known)}" for name in unknown)[:2000]
    if problem.validator == "not" and isinstance(problem.schema, Mapping) and "description" in problem.schema:
        return str(problem.schema["description"])[:500]
    if problem.validator == "enum" and isinstance(instance, str) and isinstance(problem.validator_value, list):
        return f"{instance!r} is not a choice here{hint(instance, map(str, problem.validator_value))}"
    return message
