"""From data sets as they are declared, or as a person made them in Python, to rows that are dealt to clients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from undersong.audit.trainer import declared
from undersong.errors import UndersongError
from undersong.recipes.agreed import in_agreed_form
from undersong.recipes.datasets import BadDataset, DatasetEntry, load_dataset, window_groups
from undersong.recipes.protocol import Dataset
from undersong.recipes.reading import Loader
from undersong.services.coordinator.domain.spec import JobSpec
from undersong.services.coordinator.domain.validation import ValidJob
from undersong.shared.names import hint
from undersong.shared.wire.manifest import Fold
from undersong.shared.wire.profiles import DatasetSchema, RecipeSpec
from undersong.simulate.conditions import BY, Conditions, ConditionsInvalid
from undersong.simulate.planning import resolve
from undersong.simulate.rows import ClientRows, deal, of_sites, schema_of

Data = str | Path | Sequence[str | Path] | Dataset | Mapping[str, Dataset]
"""A ``datasets.yaml``; several, one for each client; a data set; or one for each client by the client's name."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Rows with their clients, and what a client declares of them."""

    rows: ClientRows
    schema: DatasetSchema


def load_rows(
    data: Data,
    document: Mapping[str, Any],
    recipes: Sequence[RecipeSpec],
    conditions: Conditions,
    seed: int,
    load: Loader | None = None,
) -> Loaded:
    """Return the rows that a job reads; raises `ConditionsInvalid` and `UndersongError` with what to correct.

    load: the recipe's own, for data sets of kind own.
    """
    if isinstance(data, Dataset):
        schema = schema_of(data)
        return Loaded(deal(_evaluated(data, resolve(document, schema, recipes)), conditions, seed), schema)
    if isinstance(data, Mapping):
        if not data:
            raise ConditionsInvalid("there is no data set", remedy="give one for each client, by its name")
        if others := [name for name, each in data.items() if not isinstance(each, Dataset)]:
            said = f"a mapping holds data sets in memory, and not what it has for {', '.join(map(str, others))}"
            raise ConditionsInvalid(said, remedy='give files as a list: ["north/datasets.yaml", "south/datasets.yaml"]')
        schema = schema_of(next(iter(data.values())))
        found = resolve(document, schema, recipes)
        return Loaded(of_sites({name: _evaluated(each, found) for name, each in data.items()}, conditions), schema)
    files = [Path(data)] if isinstance(data, str | Path) else [Path(each) for each in data]
    part = document.get("data")
    name = str(part.get("dataset")) if isinstance(part, Mapping) else ""
    entries = [declared(file, name) for file in files]
    try:
        if len(entries) > 1:
            return _several(files, entries, document, recipes, conditions, load)
        return _one(entries[0], document, recipes, conditions, seed, load)
    except BadDataset as refusal:
        raise UndersongError(refusal.explain(), remedy="correct the file or its declaration") from None


def _one(
    entry: DatasetEntry,
    document: Mapping[str, Any],
    recipes: Sequence[RecipeSpec],
    conditions: Conditions,
    seed: int,
    load: Loader | None,
) -> Loaded:
    schema = entry.schema_document()
    found = resolve(document, schema, recipes)
    data, rule = _loaded(entry, found, load), conditions.partition
    if rule.kind != BY or rule.column in (*found.resolved.features, found.resolved.label):
        return Loaded(deal(data, conditions, seed), schema)
    column, texts = _values_of(entry, rule.column, found, load)
    return Loaded(_named(deal(data, conditions, seed, column), texts, column), schema)


def _values_of(
    entry: DatasetEntry, name: str, found: ValidJob, load: Loader | None
) -> tuple[npt.NDArray[np.float64], Sequence[str]]:
    """Return each row's value of a column that the job does not use, and the texts where these are places of texts."""
    group = entry.series.group if entry.series is not None else None
    if name == group:
        groups, texts = window_groups(entry)
        return groups.astype(np.float64), texts
    known = {each.name: each for each in entry.offered if each.type in ("number", "category")}
    if name not in known:
        said = f"data set {entry.name} declares no column {name!r} of numbers or categories"
        names = [*known, group] if group else list(known)
        raise ConditionsInvalid(said + hint(name, names), remedy="name one that it declares, or declare it")
    column = load_dataset(entry, [name], found.resolved.label, load=load).features[:, 0]
    return column, entry.wire(known[name]).categories or ()


def _loaded(entry: DatasetEntry, found: ValidJob, load: Loader | None) -> Dataset:
    fold = found.spec.data.fold if isinstance(found.spec, JobSpec) else None
    wanted = Fold(number=fold.number, of=fold.of) if fold is not None else None
    rows = load_dataset(entry, found.resolved.features, found.resolved.label, fold=wanted, load=load)
    return _evaluated(rows, found)


def _evaluated(data: Dataset, found: ValidJob) -> Dataset:
    """Return the data set with the rows that the job evaluates on as those of its test."""
    if not isinstance(found.spec, JobSpec):
        return data
    part = found.spec.evaluation.part
    return data.evaluated_on(part or ("test" if found.spec.data.fold is None else "validation"))


def _named(rows: ClientRows, texts: Sequence[str], column: Any) -> ClientRows:
    """Return the rows with clients named by their category's text."""
    if not texts:
        return rows
    places = [column[rows.data.train[rows.split.of(client)[0]]] for client in range(rows.split.clients)]
    names = tuple("(missing)" if place != place else texts[int(place)] for place in places)
    return replace(rows, split=replace(rows.split, names=names))


def _several(
    files: Sequence[Path],
    entries: Sequence[DatasetEntry],
    document: Mapping[str, Any],
    recipes: Sequence[RecipeSpec],
    conditions: Conditions,
    load: Loader | None,
) -> Loaded:
    """Return one client for each file, named by its folder where that tells them apart."""
    names = [file.resolve().parent.name for file in files]
    if len(set(names)) < len(names):
        names = [str(file) for file in files]
    schema = entries[0].schema_document()
    found = resolve(document, schema, recipes)
    sites = {}
    for name, entry in zip(names, entries, strict=True):
        data = _loaded(entry, found, load)
        sites[name] = in_agreed_form(data, entry.schema_document().columns, found.resolved.columns)
    return Loaded(of_sites(sites, conditions), schema)
