"""Checks of a recipe of one's own: everything that a site would ask of it, in the child process that sites use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from undersong.audit.trainer import Trainer, declared, rows_of
from undersong.audit.trial import data_of
from undersong.errors import UndersongError
from undersong.own_recipes.rows import made_rows
from undersong.recipes.protocol import source_digest
from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.runner.process import ProcessLauncher
from undersong.services.agent.runner.protocol import Progress, Setup
from undersong.services.agent.runner.warm import WarmRunner
from undersong.shared.learning.metrics import metrics_of
from undersong.shared.learning.tensors import Model, difference
from undersong.shared.wire.manifest import RecipeRef
from undersong.shared.wire.privacy import RecordNoise
from undersong.shared.wire.profiles import RecipeSpec

_CLOSE: Final = 1e-4  # relative: how far sums of parts may be from those of the whole
_NOISE: Final = RecordNoise(1.0, 1.0, 0.5, 2)


@dataclass(frozen=True, slots=True)
class RecipeFault:
    """What is wrong with a recipe, where it was seen, and what helps."""

    step: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class RecipeCheck:
    """What a check found; `metrics` of a model after a few rounds where there is no fault that kept it from that."""

    name: str
    digest: str
    faults: tuple[RecipeFault, ...]
    walls: Mapping[str, str]
    parameters: int = 0
    metrics: Mapping[str, float] | None = None


async def check_recipe(
    file: Path,
    folder: Path,
    progress: Progress,
    *,
    data: Path | None = None,
    dataset: str | None = None,
    params: Mapping[str, Any] | None = None,
    required: bool = True,
) -> RecipeCheck:
    """Run a recipe on declared or made rows and return what is wrong with it.

    `file` is absolute; `folder` is empty and the check's own. With `required` no recipe runs where a part of the
    confinement is missing.
    Raises UndersongError for data that cannot be used.
    """
    digest = source_digest(file)
    try:
        spec, walls = await _described(file, digest, folder / "describe", required=required)
    except _Fault as fault:
        return RecipeCheck(file.stem, digest, (fault.found,), {})
    found: list[RecipeFault] = []
    course = _Course(spec, params or {}, file, folder, progress, required=required)
    try:
        async for each in course.faults(data, dataset):
            found.append(each)  # noqa: PERF401 (those before the last one count)
    except _Fault as fault:
        found.append(fault.found)
    return RecipeCheck(spec.name, digest, tuple(found), walls, course.parameters, course.metrics)


class _Fault(Exception):
    """A fault after which nothing more can be tried."""

    def __init__(self, step: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.found = RecipeFault(step, message, remedy)


async def _described(file: Path, digest: str, folder: Path, *, required: bool) -> tuple[RecipeSpec, Mapping[str, str]]:
    """Return what the recipe says of itself, and how the child that was asked is closed."""
    (folder / "work").mkdir(parents=True)
    setup = Setup(
        datasets=str(folder / "datasets.yaml"),
        recipes=(str(file),),
        allowed_digests=(digest,),
        required=required,
        writes=(str(folder / "work"),),
    )
    (folder / "datasets.yaml").write_text("datasets: []\n")
    runner = WarmRunner(ProcessLauncher(folder), setup, taken=folder / "taken")
    try:
        described = await runner.describe()
    except TaskFailure as failure:
        raise _Fault("import", str(failure), _remedy(failure.code)) from None
    finally:
        await runner.close()
    own = [RecipeSpec.model_validate(spec) for spec in described.recipes if spec["name"] in described.own_recipes]
    if len(own) == 1:
        return own[0], runner.closed
    said = "; ".join(described.faults) or "the file has no RECIPE"
    raise _Fault("import", said.removeprefix(f"recipe {file}: "), _import_remedy(said))


def _import_remedy(said: str) -> str:
    if "ModuleNotFoundError" in said:
        return "install the module beside every agent, or do without it"
    if "PermissionError" in said:
        return "a recipe may read its data set and what Python loads, and reach nothing else: take that out"
    if "has no RECIPE" in said:
        return "end the file with RECIPE = TorchRecipe(__file__, …): undersong recipe new writes an example"
    if "source_digest" in said or "spec.digest" in said:
        return "give TorchRecipe, or the spec, this file: __file__"
    return "correct the file"


def _remedy(code: str) -> str:
    return {
        "not-contained": "check it on a machine whose kernel can close everything to recipes, or use --open",
        "model-mismatch": "return the tensors that were given, of the same names, shapes and types",
        "layout-unknown": "let task and classes of the spec fit the sums that evaluate returns",
    }.get(code, "correct the recipe at the place that is named")


class _Course:
    """What a recipe does from its first model to its metrics, step by step."""

    def __init__(
        self,
        spec: RecipeSpec,
        params: Mapping[str, Any],
        file: Path,
        folder: Path,
        progress: Progress,
        *,
        required: bool,
    ) -> None:
        self._spec, self._params, self._file, self._folder = spec, params, file, folder
        self._progress, self._required = progress, required
        self.parameters = 0
        self.metrics: Mapping[str, float] | None = None

    async def faults(self, data: Path | None, dataset: str | None) -> AsyncIterator[RecipeFault]:
        """Yield each fault; raises _Fault where nothing more can be tried."""
        declarations = made_rows(self._spec, self._params, self._folder / "rows") if data is None else data
        entry = declared(declarations, dataset)
        inputs = self._spec.inputs or ()
        named = [column.name for column in entry.offered if column.type in inputs and column.name != entry.target]
        wanted = data_of({"data": {"dataset": entry.name, "features": named}}, entry)
        if inputs:
            types = {column.name: column.type for column in wanted.columns}
            kept = tuple(name for name in wanted.features if types[name] in inputs)
            columns = tuple(c for c in wanted.columns if c.name in {*kept, wanted.label})
            wanted = wanted.model_copy(update={"features": kept, "columns": columns})
        rows = None if entry.kind == "own" else rows_of(entry, wanted)
        recipe = RecipeRef(name=self._spec.name, digest=self._spec.digest, params=dict(self._params))
        files = () if entry.path is None else (entry.path,)
        async with Trainer(
            self._folder / "trainer", declarations, files, recipe, wanted, [self._file], required=self._required
        ) as trainer:
            train, test = (rows.train, rows.test) if rows is not None else await _do("load", trainer.rows())
            async for fault in self._trained(trainer, train, test):
                yield fault

    async def _trained(self, trainer: Trainer, train: Any, test: Any) -> AsyncIterator[RecipeFault]:
        first = await _do("initial", trainer.course(train, 0, 0, self._progress))
        if not _same(first, await _do("initial", trainer.course(train, 0, 0, self._progress))):
            yield RecipeFault("initial", "the same seed makes another first model", _SEEDED)
        model = await _do("train", trainer.train(first, train, 1))
        if not _same(model, await _do("train", trainer.train(first, train, 1))):
            yield RecipeFault("train", "the same seed makes another update", _SEEDED)
        change = difference(first.schema, model.tensors, first.tensors)
        self.parameters = first.schema.parameters
        if not np.isfinite(change).all():
            raise _Fault("train", "a tensor holds a number that is not finite", "lower the learning rate, or clip")
        if not change.any():
            yield RecipeFault("train", "training changes nothing", "return the trained tensors, not those given")
        for seed in (2, 3):
            model = await _do("train", trainer.train(model, train, seed))
        layout, sums = await _do("evaluate", trainer.evaluate(model, test, self._progress))
        self.metrics = metrics_of(layout, sums)
        half, head = len(test) // 2, 0.0  # rows and loss: other sums may move a row by rounding
        for part in (test[:half], test[half:]):
            _, found = await _do("evaluate", trainer.evaluate(model, part, self._progress))
            head = head + found[:2]
        if not np.allclose(head, sums[:2], rtol=_CLOSE, atol=_CLOSE):
            yield RecipeFault(
                "evaluate", "the sums of two halves of the rows are not those of all", "return sums, not means"
            )
        if self._spec.record_params is not None:
            events = await _do("noise for records", trainer.noisy(first, train, _NOISE))
            if not events:
                yield RecipeFault(
                    "noise for records",
                    "the spec has record_params, and training reports no noise",
                    "add the noise that record_noise(context) asks for, or give record_params=None",
                )


_SEEDED: Final = "draw random numbers from the seed that is given: numpy.random.default_rng(seed)"


async def _do(step: str, work: Any) -> Any:
    """Return what an order made; its failure is a fault with the place in the code."""
    try:
        return await work
    except UndersongError as error:
        failure = error.__cause__
        if not isinstance(failure, TaskFailure):
            raise _Fault(step, str(error), error.remedy or "correct the recipe") from None
        last = (failure.text or "").strip().splitlines()[-1:]
        where = failure.where[-1:] if failure.where else ()
        said = "; ".join(dict.fromkeys([*(last or [str(failure)]), *(f"at {place}" for place in where)]))
        raise _Fault(step, said, _remedy(failure.code)) from None


def _same(one: Model, other: Model) -> bool:
    pairs = [(one.tensors[name], other.tensors[name]) for name in one.tensors]
    return all(np.array_equal(first, second, equal_nan=first.dtype.kind == "f") for first, second in pairs)
