"""A training job on one machine's own rows, mock data for example: the recipe as it is, no platform and no budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from undersong.audit.trainer import Trainer, declared, rows_of
from undersong.errors import UndersongError
from undersong.recipes.catalogue import BUILT_IN, load_recipe, own_recipes
from undersong.recipes.declaration import DatasetEntry
from undersong.recipes.protocol import RecipeError
from undersong.services.agent.runner.protocol import Progress
from undersong.services.coordinator.domain.findings import kind_of as judged_kind
from undersong.shared.errors import Refusal
from undersong.shared.learning.metrics import metrics_of
from undersong.shared.names import hint
from undersong.shared.wire.manifest import DataRef, RecipeRef


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial made: rounds and rows it trained with, the size of the model, and the metrics of its test rows."""

    rounds: int
    training_rows: int
    parameters: int
    metrics: Mapping[str, float]


def kind_of(spec: Mapping[str, Any]) -> str:
    """Return the kind of a job document; one with queries needs not name it. UndersongError for an unknown one."""
    try:
        return judged_kind({"kind": "statistics", **spec} if "queries" in spec else spec)
    except Refusal as refusal:
        raise refused(refusal) from None


def refused(refusal: Refusal) -> UndersongError:
    """Return a refusal of a job document as an error with a line for each fault."""
    error = UndersongError(refusal.detail, remedy="correct the job file: see docs/reference/job.md")
    for fault in refusal.errors:
        error.add_note(f"{fault.path or '/'}: {fault.message}")
    return error


async def try_job(
    spec: Mapping[str, Any], declarations: Path, own: Sequence[Path], folder: Path, progress: Progress
) -> Trial:
    """Train as a job document says on rows that are here, and evaluate; UndersongError with what to correct."""
    if kind_of(spec) == "evaluate":
        remedy = "try the job that trains: its metrics are those of the same rows"
        raise UndersongError("a job that only evaluates needs a version of the platform", remedy=remedy)
    entry = declared(declarations, str(_part(spec, "data").get("dataset")))
    data, recipe, rounds = data_of(spec, entry), _recipe(spec, own), spec.get("rounds", 1)
    if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1:
        raise UndersongError(f"rounds is {rounds!r}, it must be a whole number from 1", remedy="correct the job file")
    rows = rows_of(entry, data)
    files = entry.sources
    async with Trainer(folder, declarations, files, recipe, data, own) as trainer:
        model = await trainer.course(rows.train, rounds, 0, progress)
        layout, sums = await trainer.evaluate(model, rows.test, progress)
    return Trial(rounds, int(rows.train.size), model.schema.parameters, metrics_of(layout, sums))


def _part(spec: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = spec.get(name)
    if not isinstance(found, dict):
        raise UndersongError(f"the job has no {name}", remedy="see docs/reference/job.md")
    return found


def _recipe(spec: Mapping[str, Any], own: Sequence[Path]) -> RecipeRef:
    part = _part(spec, "recipe")
    name = str(part.get("name"))
    try:
        recipes = {name: load_recipe(name) for name in BUILT_IN} | {one.spec.name: one for one in own_recipes(own)}
    except RecipeError as refusal:
        raise UndersongError(refusal.detail, remedy="correct the recipe's file") from None
    if name not in recipes:
        remedy = "name the recipe's source: --recipe FILE"
        raise UndersongError(f"recipe {name!r} is unknown here{hint(name, recipes)}", remedy=remedy)
    try:
        return RecipeRef(name=name, digest=recipes[name].spec.digest, params=part.get("params") or {})
    except ValidationError as error:
        raise UndersongError(f"recipe.params: {error.errors()[0]['msg']}", remedy="correct the job file") from None


def data_of(spec: Mapping[str, Any], entry: DatasetEntry) -> DataRef:
    """Return the job's data in the form of this one site: what is not named is all that is declared.

    Raises UndersongError for a name that is not declared.
    """
    part = _part(spec, "data")
    label = part.get("label") or entry.target
    names = [column.name for column in entry.offered]
    usable = [column.name for column in entry.offered if column.type != "text" and column.name != label]
    features = list(part.get("features") or usable)
    for name in [*features, *([label] if label else [])]:
        if name not in names:
            raise UndersongError(
                f"data set {entry.name} has no column {name}{hint(str(name), names)}", remedy="correct the job file"
            )
    columns = [entry.wire(column) for column in entry.offered if column.name in {*features, label}]
    try:
        return DataRef(
            dataset=entry.name,
            features=tuple(features),
            label=label,
            columns=tuple(columns),
            part=(spec.get("evaluation") or {}).get("part"),
            fold=part.get("fold"),
        )
    except ValidationError as error:
        raise UndersongError(f"data: {error.errors()[0]['msg']}", remedy="correct the job file") from None
