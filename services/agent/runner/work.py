"""What the child does for an order: find the recipe, load the rows, run it, and write down the result."""

from __future__ import annotations

import errno
import mmap
import os
import platform
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from undersong.recipes.agreed import Groups, image_fault, in_agreed_form, rows_by_group, split_groups
from undersong.recipes.catalogue import BUILT_IN, NotAllowed, load_file, load_recipe
from undersong.recipes.datasets import BadDataset, DatasetEntry, describe_dataset, load_dataset, read_declarations
from undersong.recipes.protocol import (
    Context,
    Dataset,
    Params,
    Recipe,
    RecipeError,
    Tensors,
    TrainResult,
    record_noise,
    round_sums,
)
from undersong.services.agent.runner import rehearsal
from undersong.services.agent.runner.protocol import LOCAL_FILE, RESULT_FILE, SUMS_FILE, Frame, snapshot_file
from undersong.services.agent.runner.ranks import RankFailed, Team
from undersong.shared.errors import Refusal
from undersong.shared.files import file_mark, tree_marks
from undersong.shared.learning import safetensors, tensors
from undersong.shared.learning.metrics import by_groups, check_sums, evaluation_layout, layout_length
from undersong.shared.wire.manifest import DataRef
from undersong.shared.wire.profiles import Task, schema_fault

KEPT_DATASETS = 2  # loaded rows that stay in memory between rounds
PLACES = 8  # of a traceback


class OrderRefused(Exception):
    """The order does not fit what is installed here."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Workshop:
    """Recipes and data of one site, kept between orders."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self._file = Path(setup["datasets"])
        self._own_paths = [Path(entry) for entry in setup["recipes"]]
        self._allowed = frozenset(setup["allowed_digests"])
        self._snapshots = Path(setup["snapshots"])
        self._device = str(setup["device"])
        self._team = Team(setup)
        self._rows: OrderedDict[tuple[Any, ...], tuple[Dataset, Groups | None]] = OrderedDict()

    def describe(self, *, own: bool) -> Frame:
        """Return recipes, declared data sets and the machine, without reading a row.

        The site's `own` recipes are described by a child without data: importing them runs them, and what they say of
        themselves leaves the site.
        """
        if own:
            faults: list[str] = []
            found = self._own(faults)
            specs = [recipe.spec.model_dump(mode="json") for recipe in found.values()]
            return {"recipes": specs, "own_recipes": sorted(found), "faults": faults}
        declared, unread = self._declarations()
        return {
            "recipes": [load_recipe(name).spec.model_dump(mode="json") for name in BUILT_IN],
            "declared": [entry.schema_document().model_dump(mode="json") for entry in declared.values()],
            "unread": unread,
            "hardware": self._hardware(),
        }

    def describe_dataset(self, name: str) -> Frame:
        """Return what may be said of one data set after reading all of it, or why it cannot be read."""
        entry = self._declarations()[0].get(name)
        try:
            if entry is None:
                return {"unread": "its declaration is gone"}
            return {"schema": describe_dataset(entry).model_dump(mode="json")}
        except BadDataset as refusal:
            return {"unread": refusal.explain().removeprefix(f"data set {name}: ")}
        except Exception as error:  # noqa: BLE001 (whatever a library raises for a file that it cannot read)
            return {"unread": f"{type(error).__name__}: {error}"}

    def run(self, order: Mapping[str, Any], progress: Callable[[float], None]) -> Frame:
        """Do one order; the frame's facts beside the result's file."""
        recipe, data, groups = self._given(order)
        folder = Path(order["folder"])
        params, context, seed = order["params"], order["context"], int(order["seed"])
        if order["kind"] == "initialise":
            _write_model(folder, recipe.initial(data.shape, params, context, seed))
            return {}
        if order["kind"] == "statistics":
            _write_sums(folder, round_sums(recipe, data, params, context, seed))
            return {"examples": int(data.train.size)}
        if order["kind"] in rehearsal.KINDS:
            return _rehearsed(recipe, data, order, progress)
        model = _read_model(Path(order["model"]))
        if order["kind"] == "evaluate":
            asked, layout = DataRef.model_validate(order["data"]), evaluation_layout(recipe.spec, params)
            parts = [data, *(replace(data, test=rows) for rows in rows_by_group(data.test, groups, len(asked.groups)))]
            sums = [_evaluated(recipe, model.tensors, part, params, context, layout) for part in parts]
            _write_sums(folder, np.concatenate(sums))
            return {"examples": int(data.test.size), "metrics_layout": by_groups(layout, len(asked.groups))}
        if order["kind"] != "train":
            raise OrderRefused("kind-unknown", f"kind {order['kind']}")
        made = self._trained(recipe, model.tensors, data, order, progress)
        if made.local:
            (folder / LOCAL_FILE).write_bytes(safetensors.write(made.local))
        _write_model(folder, tensors.Model(model.schema.result(made.tensors), made.tensors))
        events = [event.model_dump(mode="json") for event in made.events]
        return {"examples": int(made.examples), "loss": float(made.loss), "events": events}

    def train_part(self, order: Mapping[str, Any]) -> None:
        """Compute this process's part of an order to train, whose result another process writes down."""
        recipe, data, _ = self._given(order)
        model = _read_model(Path(order["model"]))
        recipe.train(model.tensors, data, order["params"], order["context"], int(order["seed"]), lambda _: None)

    def _given(self, order: Mapping[str, Any]) -> tuple[Recipe, Dataset, Groups | None]:
        """Return the recipe of an order and its rows, with what the last round left here."""
        recipe = self._recipe(order)
        data, groups = self._data(order, recipe)
        data = data.evaluated_on(DataRef.model_validate(order["data"]).evaluated)
        if order["rows"] is not None and order["kind"] != rehearsal.ROWS:
            data = rehearsal.chosen_rows(data, Path(order["rows"]))
        if order["local"] is not None:
            data = replace(data, local=safetensors.read(Path(order["local"]).read_bytes()))
        return recipe, data, groups

    def _trained(
        self,
        recipe: Recipe,
        model: Tensors,
        data: Dataset,
        order: Mapping[str, Any],
        progress: Callable[[float], None],
    ) -> TrainResult:
        """Train, with this site's other processes where it has some and the recipe shares its batches with them."""
        context = order["context"]

        def alone() -> TrainResult:
            return recipe.train(model, data, order["params"], context, int(order["seed"]), progress)

        shared = getattr(recipe, "parallel", False) and record_noise(context) is None
        return self._team.train(order, alone) if shared and self._team.may_train() else alone()

    def _recipe(self, order: Mapping[str, Any]) -> Recipe:
        name = order["recipe"]
        own = {} if name in BUILT_IN else self._own([])
        recipe = own[name] if name in own else load_recipe(name)
        if recipe.spec.digest != order["recipe_digest"]:
            raise OrderRefused("recipe-digest", f"recipe {name} is installed here with other code")
        return recipe

    def _own(self, faults: list[str]) -> dict[str, Recipe]:
        """Return the site's own recipes by name. A file whose digest the policy does not name is not even imported."""
        found: dict[str, Recipe] = {}
        for path in _files(self._own_paths):
            try:
                recipe = self._own_recipe(path, found)
                found[recipe.spec.name] = recipe
            except (OrderRefused, Refusal, OSError) as error:
                faults.append(f"recipe {path}: {error}")
        return found

    def _own_recipe(self, path: Path, found: Mapping[str, Recipe]) -> Recipe:
        try:
            recipe = load_file(path, self._allowed)
        except NotAllowed as error:
            raise OrderRefused("policy-recipe", str(error)) from None
        if recipe.spec.name in BUILT_IN or recipe.spec.name in found:
            raise OrderRefused("recipe-name", f"the name {recipe.spec.name} is used twice")
        return recipe

    def _declarations(self) -> tuple[dict[str, DatasetEntry], dict[str, str]]:
        """Return the usable entries of ``datasets.yaml`` by name, and why the others cannot be used."""
        if not self._file.exists():
            return {}, {}
        try:
            found = read_declarations(self._file)
        except BadDataset as refusal:
            return {}, {self._file.name: refusal.explain()}
        return {name: self._placed(entry) for name, entry in found.entries.items()}, found.reasons()

    def _placed(self, entry: DatasetEntry) -> DatasetEntry:
        """Return a query's entry with the file of its rows."""
        if entry.kind != "sql":
            return entry
        return entry.model_copy(update={"path": snapshot_file(self._snapshots, entry.name)})

    def _data(self, order: Mapping[str, Any], recipe: Recipe) -> tuple[Dataset, Groups | None]:
        """Return the rows, and each one's place among the groups that the round asks for, NaN where it has none."""
        asked = DataRef.model_validate(order["data"])
        entry = self._declarations()[0].get(asked.dataset)
        if entry is None:
            raise OrderRefused("dataset-unknown", f"data set {asked.dataset} is not declared here")
        own = entry.schema_document()
        if (fault := schema_fault(own, asked)) is not None:
            raise OrderRefused("schema-mismatch", fault)
        labelled = recipe.spec.task is not Task.SUMMARY and not (asked.columns and asked.label is None)
        paths, reader = entry.files().values(), recipe.spec.digest if entry.kind == "own" else ""
        version = tuple(tree_marks(path) if reader else file_mark(path) for path in paths)  # own: a folder, too
        pictures = () if entry.images is None else tree_marks(entry.images.folder)
        key = (entry.model_dump_json(), asked.digest(), version, pictures, labelled, reader)
        if key not in self._rows:
            features = tuple(name for name in asked.read if name != asked.label)
            load = getattr(recipe, "load_columns", None)
            data = load_dataset(entry, features, asked.label, labelled=labelled, fold=asked.fold, load=load)
            if (fault := image_fault(data, asked.columns)) is not None:
                raise OrderRefused("schema-mismatch", fault)
            self._rows[key] = split_groups(in_agreed_form(data, own.columns, asked.columns), asked)
            while len(self._rows) > KEPT_DATASETS:
                self._rows.popitem(last=False)
        self._rows.move_to_end(key)
        return self._rows[key]

    def _hardware(self) -> Frame:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        gpus = _gpus()
        mps = platform.system() == "Darwin" and platform.machine() == "arm64"
        best = "cuda" if gpus else "mps" if mps else "cpu"
        return {
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            "memory_bytes": pages * size,
            "gpus": gpus,
            "device": best if self._device == "auto" else self._device,
        }


def _rehearsed(recipe: Recipe, data: Dataset, order: Mapping[str, Any], progress: Callable[[float], None]) -> Frame:
    """Do an order that no site is given: those of audits and of checks of recipes."""
    folder, examples = Path(order["folder"]), int(data.train.size)
    if order["kind"] == rehearsal.COURSE:
        _write_model(folder, rehearsal.run_course(recipe, data, order, progress))
    elif order["kind"] == rehearsal.ROWS:
        _write_sums(folder, np.concatenate([[examples], data.train, data.test]))
    else:
        model, examples = _read_model(Path(order["model"])), int(data.test.size)
        _write_sums(folder, rehearsal.losses(recipe, model.tensors, data, order["params"], progress))
    return {"examples": examples}


def _evaluated(
    recipe: Recipe, model: Tensors, data: Dataset, params: Params, context: Context, layout: str
) -> npt.NDArray[np.float64]:
    """Return a recipe's sums over the test rows, zeros where there are none."""
    if not data.test.size:
        return np.zeros(layout_length(layout))
    sums = np.asarray(recipe.evaluate(model, data, params, context), np.float64)
    check_sums(layout, sums)
    return sums


def failure_frame(error: BaseException) -> Frame:
    """Describe what went wrong: type and places in the code, and apart from them the text, which may quote data.

    A `RecipeError` carries the sentence that the recipe wrote for people, a `BadDataset` the one that names no value;
    any other exception only its type.
    """
    where = [
        f"{Path(place.filename).name}:{place.lineno} in {place.name}"
        for place in traceback.extract_tb(error.__traceback__)[-PLACES:]
    ]
    text = "".join(traceback.format_exception(error))[-8192:]
    if isinstance(error, RankFailed):
        return error.frame
    if isinstance(error, OrderRefused):
        return {"type": "failure", "code": error.code, "detail": str(error), "where": [], "text": ""}
    memory = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    code = (
        "disk-full"
        if full
        else "out-of-memory"
        if memory
        else error.slug()
        if isinstance(error, Refusal)
        else "recipe-error"
    )
    detail = error.detail if isinstance(error, RecipeError | BadDataset) else type(error).__name__
    return {"type": "failure", "code": code, "detail": detail, "where": where, "text": text}


def _files(paths: list[Path]) -> list[Path]:
    return [file for path in paths for file in (sorted(path.glob("*.py")) if path.is_dir() else [path])]


def _gpus() -> list[str]:
    """Return the names that the driver gives; no library is loaded for it."""
    found = []
    for folder in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = dict(line.split(":", 1) for line in folder.read_text().splitlines() if ":" in line)
        found.append(lines.get("Model", "NVIDIA").strip())
    return found


def _read_model(path: Path) -> tensors.Model:
    with path.open("rb") as file:
        return tensors.load(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def _write_model(folder: Path, model: tensors.Model) -> None:
    with (folder / RESULT_FILE).open("wb") as file:
        file.writelines(tensors.pieces(model))


def _write_sums(folder: Path, sums: Any) -> None:
    np.asarray(sums, "<f8").tofile(folder / SUMS_FILE)
