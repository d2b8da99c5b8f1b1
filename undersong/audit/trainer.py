"""A recipe over chosen rows of one data set, in the recipe's real, confined child process, at the auditor's machine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from undersong.errors import UndersongError
from undersong.recipes.agreed import in_agreed_form
from undersong.recipes.catalogue import BUILT_IN
from undersong.recipes.datasets import BadDataset, DatasetEntry, load_dataset, read_declarations
from undersong.recipes.protocol import Dataset
from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.runner.process import ProcessLauncher
from undersong.services.agent.runner.protocol import Progress, RunOrder, RunOutcome, Setup
from undersong.services.agent.runner.rehearsal import COURSE, LOSSES, ROWS, save_rows
from undersong.services.agent.runner.warm import WarmRunner
from undersong.shared.learning.tensors import Model, load, save
from undersong.shared.names import hint
from undersong.shared.wire.manifest import DataRef, RecipeRef, RoundManifest
from undersong.shared.wire.privacy import RECORD_NOISE, PrivacyEvent, RecordNoise
from undersong.shared.wire.profiles import schema_fault

LIMIT_S: Final = 3600.0
Rows = npt.NDArray[np.int64]


def declared(file: Path, name: str | None) -> DatasetEntry:
    """Return a data set's entry in a ``datasets.yaml``, the only one where none is named; UndersongError."""
    try:
        found = read_declarations(file)
    except BadDataset as refusal:
        raise UndersongError(refusal.explain(), remedy="undersong data init FILE writes an entry") from None
    if name is None:
        if len(found.entries) > 1:
            said = f"{file} declares {len(found.entries)} data sets: {', '.join(found.entries)}"
            raise UndersongError(said, remedy="name one: --dataset NAME")
        name = next(iter([*found.entries, *found.faults]), None)
    if name is None:
        raise UndersongError(f"{file} declares no data set", remedy="undersong data init FILE writes an entry")
    if name in found.faults:
        raise UndersongError(f"data set {name}: {found.reasons()[name]}", remedy=f"correct {file}")
    if name not in found.entries:
        near = hint(name, found.entries)
        raise UndersongError(
            f"{file} declares no data set {name}{near}", remedy=f"name one that it declares, or add it to {file}"
        )
    return found.entries[name]


def rows_of(entry: DatasetEntry, wanted: DataRef) -> Dataset:
    """Return the rows in the form that the version's sites agreed on; UndersongError."""
    own = entry.schema_document()
    if (fault := schema_fault(own, wanted)) is not None:
        raise UndersongError(f"data set {entry.name}: {fault}", remedy="audit with data of the job's own form")
    try:
        found = load_dataset(entry, wanted.features, wanted.label, fold=wanted.fold).evaluated_on(wanted.evaluated)
        return in_agreed_form(found, own.columns, wanted.columns)
    except BadDataset as refusal:
        raise UndersongError(refusal.explain(), remedy="correct the file or its declaration") from None


@dataclass(slots=True)
class Trainer:
    """Runs one recipe, one order at a time; `async with` ends its child.

    `folder` is empty and the trainer's own; `own` are the files of recipes that do not come with the platform. With
    `noise` the recipe adds it as it trains, as at a site in a round that protects records. With
    `required` there is no child where a part of its confinement is missing.
    """

    folder: Path
    declarations: Path
    files: Sequence[Path]
    recipe: RecipeRef
    data: DataRef
    own: Sequence[Path] = ()
    device: str = "auto"
    noise: RecordNoise | None = None
    required: bool = False
    _runner: WarmRunner = field(init=False)
    _orders: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Prepare the folders that a child may read and write."""
        for name in ("work", "models"):
            (self.folder / name).mkdir(parents=True)
        digests = () if self.recipe.name in BUILT_IN else (self.recipe.digest,)
        setup = Setup(
            datasets=str(self.declarations.resolve()),
            recipes=tuple(str(path.resolve()) for path in self.own),
            allowed_digests=digests,
            device=self.device,
            required=self.required,
            reads=(str(self.folder / "models"),),
            writes=(str(self.folder / "work"),),
        )
        files = {self.data.dataset: [path.resolve() for path in self.files]}
        self._runner = WarmRunner(ProcessLauncher(self.folder), setup, taken=self.folder / "taken", data=files)

    async def __aenter__(self) -> Self:
        """Return the trainer; its child starts with the first order."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the child."""
        await self._runner.close()

    async def course(
        self, rows: Rows, rounds: int, seed: int, progress: Progress, *, label: npt.NDArray[np.float64] | None = None
    ) -> Model:
        """Return a model trained on these rows from nothing; with 0 rounds it is version 0. UndersongError."""
        made = await self._run(COURSE, progress, train=rows, label=label, seed=seed, rounds=rounds)
        return _model(made)

    async def train(
        self, model: Model, rows: Rows, seed: int, *, label: npt.NDArray[np.float64] | None = None
    ) -> Model:
        """Return the model after what one site does with these rows in one round; UndersongError."""
        return _model(await self._run("train", _ignored, train=rows, label=label, seed=seed, model=model))

    async def noisy(self, model: Model, rows: Rows, noise: RecordNoise) -> tuple[PrivacyEvent, ...]:
        """Return the noise that training with these rows says to have added, where it is asked for; UndersongError."""
        before, self.noise = self.noise, noise
        try:
            return (await self._run("train", _ignored, train=rows, model=model)).events
        finally:
            self.noise = before

    async def evaluate(self, model: Model, rows: Rows, progress: Progress) -> tuple[str, npt.NDArray[np.float64]]:
        """Return the layout and the evaluation's sums over these rows; UndersongError."""
        made = await self._run("evaluate", progress, test=rows, model=model)
        if made.sums is None or made.metrics_layout is None:
            raise UndersongError("the recipe's process returned no evaluation")
        return made.metrics_layout, np.fromfile(made.sums, "<f8")

    async def losses(
        self, model: Model, rows: Rows, progress: Progress, *, label: npt.NDArray[np.float64] | None = None
    ) -> npt.NDArray[np.float64]:
        """Return the loss of each of these rows, float64[n]; UndersongError."""
        made = await self._run(LOSSES, progress, test=rows, label=label, model=model)
        if made.sums is None:
            raise UndersongError("the recipe's process returned no losses")
        return np.fromfile(made.sums, "<f8")

    async def rows(self) -> tuple[Rows, Rows]:
        """Return training and test rows of a data set that only the recipe can read; UndersongError."""
        made = await self._run(ROWS, _ignored)
        if made.sums is None:
            raise UndersongError("the recipe's process returned no rows")
        found = np.fromfile(made.sums, "<f8").astype(np.int64)
        return found[1 : 1 + found[0]], found[1 + found[0] :]

    async def statistics(self, manifest: RoundManifest) -> RunOutcome:
        """Return what the recipe adds up for a round of statistics; UndersongError. The next order takes its place."""
        folder = self._folder_of_order()
        asked = manifest.recipe
        order = RunOrder("statistics", asked.name, asked.digest, asked.params, manifest.data, {}, manifest.seed, folder)
        return await self._outcome(order, _ignored)

    async def _run(
        self,
        kind: str,
        progress: Progress,
        *,
        train: Any = (),
        test: Any = (),
        label: Any = None,
        model: Model | None = None,
        seed: int = 0,
        rounds: int = 1,
    ) -> RunOutcome:
        folder = self._folder_of_order()
        save_rows(folder / "rows.safetensors", train=train, test=test, label=label)
        path = None if model is None else self.folder / "models" / f"{self._orders}.safetensors"
        self._orders += 1
        if path is not None and model is not None:
            path.write_bytes(save(model))
        context = {} if self.noise is None else {RECORD_NOISE: list(self.noise)}
        order = RunOrder(
            kind, self.recipe.name, self.recipe.digest, self.recipe.params, self.data, context, seed, folder, path,
            folder / "rows.safetensors", rounds,
        )  # fmt: skip
        try:
            return await self._outcome(order, progress)
        finally:
            if path is not None:
                path.unlink(missing_ok=True)

    async def _outcome(self, order: RunOrder, progress: Progress) -> RunOutcome:
        try:
            made = await self._runner.run(order, progress, limit_s=LIMIT_S)
        except TaskFailure as failure:
            raise UndersongError(
                f"recipe {self.recipe.name}: {failure}", remedy=_remedy(failure.code, self.folder / "recipes.log")
            ) from failure
        progress(1.0)  # a child tells not too often
        return made

    def _folder_of_order(self) -> Path:
        folder = self.folder / "work" / "order"
        folder.mkdir(exist_ok=True)
        return folder


def _remedy(code: str, log: Path) -> str:
    if code in ("recipe-digest", "policy-recipe"):
        return "install the release that made the version, or name its source: --recipe FILE"
    if code == "recipe-unknown":
        return "name the recipe's source: --recipe FILE"
    return f"look into {log}, kept with --keep"


def _model(made: RunOutcome) -> Model:
    if made.tensors is None:
        raise UndersongError("the recipe's process returned no model")
    return load(made.tensors.read_bytes())


def _ignored(_: float) -> None:
    """Ignore the progress of one round."""
