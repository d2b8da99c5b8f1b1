"""The first job on one's own files: a site for each file, and a model that all of them train.

`plan` decides from the files alone what the sites are called, what their data sets are and what the job is; it starts
nothing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from undersong.errors import UndersongError
from undersong.recipes.datasets import BadDataset, describe_dataset, read_datasets
from undersong.recipes.draft import draft_text
from undersong.shared.secagg.engines import DEFAULT_ENGINE
from undersong.shared.wire.columns import Column

FEWEST: Final = 3
"""Sites whose sum hides each of them."""
_ODD: Final = re.compile(r"[^A-Za-z0-9_-]+")
_SETTINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "logistic": {"epochs": 10, "batch_size": 0, "learning_rate": 0.1},
    "mlp": {"epochs": 1, "batch_size": 32, "learning_rate": 0.05},
}
"""How long a site trains in a round, by the model."""
_NO: Final = frozenset(
    {
        "0",
        "n",
        "no",
        "none",
        "false",
        "f",
        "negative",
        "absent",
        "healthy",
        "well",
        "alive",
        "nein",
        "falsch",
        "negativ",
    }
    | {"gesund", "non", "faux", "négatif", "falso"}
)
"""Texts that name the class which is not looked for, in lower case."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is set up: `drafts` holds each site's ``datasets.yaml``, `predicted` says what the label was taken for, and
    `unused` why no model reads a column.
    """

    files: Mapping[str, Path]
    drafts: Mapping[str, str]
    job: dict[str, Any]
    predicted: str
    unused: Mapping[str, str] = field(default_factory=dict)


def plan(
    files: Sequence[Path],
    label: str,
    *,
    name: str = "quickstart",
    model: str = "logistic",
    task: str | None = None,
    rounds: int = 20,
) -> Plan:
    """Return what to set up so that a site for each file trains one model of `label`; raises UndersongError.

    `name` is that of the data set, the model and the job. Without `task` it follows from the label's values.
    """
    sites = name_sites(files)
    drafts = {site: _drafted(file, name, label) for site, file in sites.items()}
    columns = {site: _columns(sites[site], text) for site, text in drafts.items()}
    differing = dict(_differing(columns, sites))
    if label in differing:
        raise UndersongError(f"the label {label}: {differing[label]}", remedy="make the files alike, or choose another")
    lists = _categories(columns, differing)
    chosen = _task(label, [named[label] for named in columns.values()], lists.get(label), task)
    job: dict[str, Any] = {
        "name": name,
        "model": {"name": name},
        "recipe": {"name": "tabular", "params": {"model": model, **chosen, **_SETTINGS[model]}},
        "data": {"dataset": name, "label": label},
        "rounds": rounds,
        "strategy": {"name": "fedavg"},
        "cohort": {"min": FEWEST},
        "engine": DEFAULT_ENGINE,
        "evaluation": {"every": 5},
    }
    unlike = {column: texts for column, texts in lists.items() if _is_unlike(column, columns)}
    classes = lists.get(label, [])
    if chosen["task"] == "binary" and len(classes) == 2 and classes[1].casefold() in _NO:
        unlike[label] = classes = classes[::-1]
    if unlike:
        job["data"]["categories"] = unlike
    shared = set.intersection(*(set(named) for named in columns.values()))
    if excluded := sorted(differing.keys() & shared):
        job["data"]["exclude"] = excluded
    return Plan(sites, drafts, job, _told(label, chosen["task"], classes), differing)


def name_sites(files: Sequence[Path]) -> dict[str, Path]:
    """Return a site's name for each file: that of the file, or of its folder where files have the same name."""
    if len(files) < FEWEST:
        said = f"{len(files)} files make {len(files)} sites, and a sum hides each only among {FEWEST} or more"
        raise UndersongError(
            said, remedy="give --data for each site: --data north.csv --data south.csv --data east.csv"
        )
    real = [file.resolve() for file in files]
    if twice := next((file for at, file in enumerate(files) if real[at] in real[:at]), None):
        raise UndersongError(f"{twice} is given twice", remedy="give each site's own file")
    stems = [_name(file.name.split(".")[0]) for file in real]
    if len(set(stems)) < len(stems):
        stems = [_name(f"{file.parent.name}-{file.name.split('.')[0]}") for file in real]
    if len(set(stems)) < len(stems):
        stems = [f"{stem}-{number}" for number, stem in enumerate(stems, 1)]
    return dict(zip(stems, files, strict=True))


def _name(text: str) -> str:
    return _ODD.sub("-", text).strip("-_")[:60] or "site"


def _drafted(file: Path, name: str, label: str) -> str:
    try:
        return draft_text(file, name, label)
    except OSError as error:
        raise UndersongError(f"{file}: {error.strerror}", remedy="name a file of rows") from None
    except BadDataset as refusal:
        raise UndersongError(f"{file}: {refusal.explain()}", remedy="correct the file, or see docs/data.md") from None


def _columns(file: Path, draft: str) -> dict[str, Column]:
    """Return the columns of a drafted entry as the agent will tell them, all rows read."""
    with TemporaryDirectory(prefix="undersong-draft-") as folder:
        path = Path(folder) / "datasets.yaml"
        path.write_text(draft)
        try:
            (entry,) = read_datasets(path).values()
            found = describe_dataset(entry).columns
        except BadDataset as refusal:
            raise UndersongError(f"{file}: {refusal.explain()}", remedy="see docs/data.md") from None
    return {column.name: column for column in found}


def _differing(columns: Mapping[str, Mapping[str, Column]], files: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Yield the columns that no model can read at all sites, with the reason."""
    for name in dict.fromkeys(name for named in columns.values() for name in named):
        types = {site: named[name].type for site, named in columns.items() if name in named}
        if absent := [str(files[site]) for site in columns if site not in types]:
            yield name, f"not in {', '.join(absent)}"
        elif len(set(types.values())) > 1:
            yield name, "; ".join(f"{kind} in {files[site]}" for site, kind in types.items())
        elif set(types.values()) - {"number", "category"}:
            yield name, "texts of too many kinds for a category"


def _categories(columns: Mapping[str, Mapping[str, Column]], without: Mapping[str, str]) -> dict[str, list[str]]:
    """Return each category column's texts at all sites together, sorted."""
    found: dict[str, set[str]] = {}
    for named in columns.values():
        for name, column in named.items():
            if column.categories is not None and name not in without:
                found.setdefault(name, set()).update(column.categories)
    return {name: sorted(texts) for name, texts in found.items()}


def _told(label: str, task: str, classes: Sequence[str]) -> str:
    """Say what the label was taken for."""
    if task == "regression":
        return f"{label} is a number to predict"
    if task == "multiclass":
        return f"{label} has {len(classes)} classes: {', '.join(classes)}"
    yes, no = (classes[1], classes[0]) if classes else ("1", "0")
    return f"{label} has two classes: the model gives the probability of {yes}, and not of {no}"


def _is_unlike(name: str, columns: Mapping[str, Mapping[str, Column]]) -> bool:
    return len({frozenset(named[name].categories or ()) for named in columns.values()}) > 1


def _task(label: str, told: Sequence[Column], texts: Sequence[str] | None, task: str | None) -> dict[str, Any]:
    """Return the recipe's `task`, and its `classes` where there are several; raises UndersongError."""
    if texts is None:
        binary = all(column.numbers == "binary" for column in told)
        chosen = task or ("binary" if binary else "regression")
        if chosen == "binary" and not binary:
            raise UndersongError(f"the label {label} has numbers other than 0 and 1", remedy="--task regression")
        if chosen == "multiclass":
            said = f"the label {label} holds numbers, and how many classes they stand for is not known"
            raise UndersongError(said, remedy="write the classes as texts, or --task regression")
        return {"task": chosen}
    if len(texts) < 2:
        raise UndersongError(f"the label {label} is {texts[0]} in every row", remedy="choose another --label")
    chosen = task or ("binary" if len(texts) == 2 else "multiclass")
    if chosen == "regression":
        raise UndersongError(f"the label {label} holds texts, which are no numbers", remedy="leave --task out")
    if chosen == "multiclass":
        return {"task": chosen, "classes": len(texts)}
    if len(texts) > 2:
        raise UndersongError(f"the label {label} has {len(texts)} values", remedy="--task multiclass")
    return {"task": chosen}
