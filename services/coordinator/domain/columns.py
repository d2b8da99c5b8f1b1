"""The columns of a training job: which it uses, in the form that all sites agreed on, and which not, and why."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from undersong.services.coordinator.domain import parts
from undersong.services.coordinator.domain.findings import Findings
from undersong.services.coordinator.domain.sites import SiteFacts, alike_columns, having, schema_of, sights_of
from undersong.shared.documents import pointer
from undersong.shared.learning.metrics import MOST_GROUPS
from undersong.shared.names import Hints, twins
from undersong.shared.wire.columns import Agreement, Column, Unused, agree
from undersong.shared.wire.manifest import DataRef
from undersong.shared.wire.profiles import RecipeSpec

TABLE: Final = frozenset({"number", "category"})
_MOST_SHOWN: Final = 10
_LEAVE_OUT: Final = "name the features, or leave it out under data.exclude"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The sites that can take part, and what each column is for them; `columns` are the features and the label."""

    sites: tuple[SiteFacts, ...] = ()
    features: tuple[str, ...] = ()
    label: str | None = None
    columns: tuple[Column, ...] = ()
    unused: tuple[Unused, ...] = ()


def choose_columns(
    data: parts.DataPart,
    recipe: RecipeSpec | None,
    sites: Sequence[SiteFacts],
    trained: DataRef | None,
    found: Findings,
) -> Chosen:
    """Settle a training job's columns over the sites that have its data set and recipe.

    `trained` is what the version that the job goes on from was trained on: features and categories keep their order.
    """
    if not sites:
        return Chosen()
    data = _with_unions(data, sites)
    _check_names(data, sites, found)
    label = _label(data, sites, found)
    places = {name: pointer(["data", "features", at]) for at, name in enumerate(data.features or ())}
    wanted = [(path, name) for name, path in places.items()] + ([("/data/label", label)] if label is not None else [])
    able = having(wanted, data.dataset, sites, found) or list(sites)
    unused = _unused(data, label, recipe, able)
    features = data.features
    if features is None:
        features = tuple(name for name in _names(data.dataset, able) if name != label and name not in unused)
        if not features and unused:
            why = "; ".join(f"{name}: {reason}" for name, reason in unused.items())
            found.error("/data/features", f"no column can be used as a feature ({why})")
    else:
        rest = [name for name in _names(data.dataset, able) if name not in features and name != label]
        unused = {name: "excluded by the job" if name in data.exclude else "not named by the job" for name in rest}
    if trained is not None and trained.features:
        features = _as_trained(data, features, trained, found)
    agreed = [_agreed(places.get(name, "/data/features"), name, data, able, found, trained) for name in features]
    _check_inputs(recipe, [column for column in agreed if column is not None], places, found)
    if label is not None:
        agreed.append(_agreed("/data/label", label, data, able, found, trained))
    columns = tuple(column for column in agreed if column is not None)
    listed = tuple(Unused(name=name, reason=reason[:500]) for name, reason in unused.items())
    return Chosen(tuple(able), features, label, columns, listed)


def compare(dataset: str, sites: Sequence[SiteFacts]) -> list[Agreement]:
    """Match every column of a data set over the sites that have it, in the order of their columns."""
    own = {site.name: {column.name: column for column in schema_of(site, dataset).columns} for site in sites}
    return [
        agree({site: columns[name] for site, columns in own.items() if name in columns})
        for name in _names(dataset, sites)
    ]


def agreed_column(
    path: str,
    name: str,
    dataset: str,
    sites: Sequence[SiteFacts],
    categories: Sequence[str] | None,
    findings: Findings,
    remedy: str = "",
) -> Column | None:
    """Return a column as all sites agreed on it; an error at `path` where they do not."""
    declared = declared_columns(dataset, name, sites)
    if not declared:
        return None
    found = agree(declared, categories)
    for fault in found.faults:
        findings.error(path, fault + remedy)
    for note in found.notes:
        findings.warn(path, note)
    return found.agreed


def check_listed(
    categories: Mapping[str, Sequence[str]], dataset: str, sites: Sequence[SiteFacts], findings: Findings
) -> None:
    """Check that `data.categories` names category columns of the data set, and each category once."""
    hints = Hints(_names(dataset, sites))
    for name, texts in categories.items():
        path = pointer(["data", "categories", name])
        declared = declared_columns(dataset, name, sites)
        if not declared:
            findings.error(path, f"no site's data set {dataset!r} has the column {name!r}{hints(name)}")
        elif kinds := {column.type for column in declared.values()} - {"category"}:
            findings.error(path, f"{name!r} is a {kinds.pop()}, and only categories can be listed")
        if len(set(texts)) != len(texts):
            findings.error(path, "a category is listed twice")


def _with_unions(data: parts.DataPart, sites: Sequence[SiteFacts]) -> parts.DataPart:
    """Return the part with the categories that any site lists in place of `union`, in the order in which they come."""
    listed = {
        name: all_categories(declared_columns(data.dataset, name, sites)) if texts == parts.UNION else texts
        for name, texts in data.categories.items()
    }
    return data.model_copy(update={"categories": listed})


def all_categories(declared: Mapping[str, Column]) -> tuple[str, ...]:
    """Return the categories that any site lists, each once."""
    return tuple(dict.fromkeys(text for column in declared.values() for text in column.categories or ()))


def _check_names(data: parts.DataPart, sites: Sequence[SiteFacts], findings: Findings) -> None:
    features = data.features or ()
    if len(set(features)) != len(features):
        findings.error("/data/features", "a column is named twice")
    if data.label is not None and data.label in features:
        findings.error("/data/features", f"the label {data.label!r} cannot be a feature too")
    names = _names(data.dataset, sites)
    hints = Hints(names)
    for at, name in enumerate(data.exclude):
        path = pointer(["data", "exclude", at])
        if name not in names:
            findings.error(path, f"no site's data set {data.dataset!r} has the column {name!r}{hints(name)}")
        elif name in features or name == data.label:
            findings.error(path, f"the column {name!r} cannot be used and excluded")
    check_listed(_texts(data), data.dataset, sites, findings)


def _texts(data: parts.DataPart) -> dict[str, tuple[str, ...]]:
    """Return the listed categories of a part whose unions are settled."""
    return {name: texts for name, texts in data.categories.items() if not isinstance(texts, str)}


def _label(data: parts.DataPart, sites: Sequence[SiteFacts], findings: Findings) -> str | None:
    """Return the label that the job names, or the one that every site declares."""
    if data.label is not None:
        return data.label
    declared = {site.name: schema_of(site, data.dataset).label for site in sites}
    labels = set(declared.values())
    if len(labels) > 1:
        said = ", ".join(f"{label!r} at {site}" if label else f"none at {site}" for site, label in declared.items())
        named = sorted(label for label in labels if label is not None)
        alike = "".join(twins([label], named[:at]) for at, label in enumerate(named))
        findings.error("/data/label", f"the sites declare different labels ({said}){alike}; name one under data.label")
        return None
    return labels.pop()


def _unused(
    data: parts.DataPart, label: str | None, recipe: RecipeSpec | None, sites: Sequence[SiteFacts]
) -> dict[str, str]:
    """Return the columns that a job without `features` does not use, with the reason."""
    found: dict[str, str] = {}
    kinds: dict[str, str] = {}
    sights = sights_of(data.dataset, sites)
    for name in _names(data.dataset, sites):
        declared = declared_columns(data.dataset, name, sites)
        without = [site for site in sites if site.name not in declared]
        labels = [site.name for site in sites if schema_of(site, data.dataset).label == name]
        if name in data.exclude:
            found[name] = "excluded by the job"
        elif without:
            at = ", ".join(site.name for site in without)
            found[name] = f"missing at {at}{alike_columns(name, without, sights)}"
        elif labels and name != label:
            found[name] = f"declared as the label at {', '.join(labels)}"
        elif name != label:
            kinds[name] = next(iter(declared.values())).type
    taken = _taken(recipe, kinds.values())
    return found | {name: _untaken(kind, recipe) for name, kind in kinds.items() if kind not in taken}


def _taken(recipe: RecipeSpec | None, kinds: Collection[str]) -> frozenset[str]:
    """Return the types that become features: those of a table where there are any, else what the recipe takes."""
    taken = frozenset(("number", "image") if recipe is None or recipe.inputs is None else recipe.inputs)
    return taken & TABLE if taken & TABLE & set(kinds) else taken


def _untaken(kind: str, recipe: RecipeSpec | None) -> str:
    name = f"the recipe {recipe.name!r}" if recipe is not None else "the recipe"
    if recipe is None or recipe.inputs is None:
        return f"a {kind} column, and {name} does not say that it takes those (`inputs` in its spec)"
    return f"a {kind} column, which {name} does not take" + (" beside others" if kind in recipe.inputs else "")


def _as_trained(data: parts.DataPart, features: tuple[str, ...], trained: DataRef, found: Findings) -> tuple[str, ...]:
    """Return the features of the version that the job goes on from, in its order; an error where the job has others."""
    if sorted(features) == sorted(trained.features) and (data.features is None or features == trained.features):
        return trained.features
    names = ", ".join(trained.features)
    said = f"the version that the job goes on from was trained on {names}, in this order"
    found.error("/data/features", f"{said}: name these, or leave out others under data.exclude")
    return features


def _check_inputs(
    recipe: RecipeSpec | None, columns: Sequence[Column], places: Mapping[str, str], found: Findings
) -> None:
    """Check the types of the features against those that the recipe takes."""
    for column in columns:
        if recipe is not None and recipe.inputs is not None and column.type not in recipe.inputs:
            takes = " and ".join(recipe.inputs)
            path = places.get(column.name, "/data/features")
            found.error(path, f"{column.name!r} is a {column.type}; the recipe {recipe.name!r} takes {takes} columns")


def group_column(
    evaluation: parts.EvaluationPart | None, data: parts.DataPart, chosen: Chosen, found: Findings
) -> Column | None:
    """Return the column by whose categories evaluations are told, as all sites agreed on it; None without one."""
    if evaluation is None or evaluation.by is None:
        return None
    path, name, sites = "/evaluation/by", evaluation.by, chosen.sites
    data = _with_unions(data, sites)
    if any(column.type in ("image", "text") for column in chosen.columns):
        found.error(path, "groups are those of a table's column, and this job reads images or texts: leave it out")
        return None
    declared = declared_columns(data.dataset, name, sites)
    if not declared:
        hints = Hints(_names(data.dataset, sites))
        found.error(path, f"no site's data set {data.dataset!r} has the column {name!r}{hints(name)}")
        return None
    if without := sorted(site.name for site in sites if site.name not in declared):
        found.error(path, f"the column {name!r} is not declared at {', '.join(without)}")
    column = agreed_column(path, name, data.dataset, sites, _texts(data).get(name), found)
    if column is None:
        return None
    if column.type != "category" or not column.categories:
        found.error(path, f"{name!r} is a {column.type}, and groups are those of a category column")
    elif len(column.categories) > MOST_GROUPS:
        found.error(path, f"{name!r} has {len(column.categories)} categories, more than {MOST_GROUPS}")
    return column


def _agreed(
    path: str,
    name: str,
    data: parts.DataPart,
    sites: Sequence[SiteFacts],
    found: Findings,
    trained: DataRef | None,
) -> Column | None:
    before = {column.name: column for column in trained.columns}.get(name) if trained is not None else None
    given = _texts(data).get(name, before.categories if before is not None else None)
    remedy = "" if path != "/data/features" else f", or {_LEAVE_OUT}"
    column = agreed_column(path, name, data.dataset, sites, given, found, remedy)
    if column is not None and before is not None and column != before:
        was, now = (_form(each) for each in (before, column))
        said = f"the column {name!r} is not what it was for the version that the job goes on from"
        found.error(
            path, f"{said}: it was {was} and is {now}; sites declare it as it was, with `values` where texts differ"
        )
    return column


def _form(column: Column) -> str:
    if column.categories is None:
        return f"a column of type {column.type}"
    shown = ", ".join(column.categories[:_MOST_SHOWN])
    return f"a category ({shown}{', …' if len(column.categories) > _MOST_SHOWN else ''})"


def _names(dataset: str, sites: Sequence[SiteFacts]) -> list[str]:
    return list(dict.fromkeys(column.name for site in sites for column in schema_of(site, dataset).columns))


def declared_columns(dataset: str, name: str, sites: Sequence[SiteFacts]) -> dict[str, Column]:
    """Return each site's declaration of a column, by the site's name."""
    return {site.name: column for site in sites for column in schema_of(site, dataset).columns if column.name == name}
