"""The whole of a simulation: from a job and its data to a run."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from undersong import __version__
from undersong.errors import UndersongError
from undersong.recipes.catalogue import BUILT_IN, load_recipe, own_recipes
from undersong.recipes.protocol import Recipe, RecipeError
from undersong.services.coordinator.domain.jobs import Job
from undersong.shared.ids import digest_of
from undersong.simulate.checkpoints import Folder
from undersong.simulate.conditions import Conditions, RayAddress, conditions_of, workers_of
from undersong.simulate.executors import Executor, Inline, Pool, WorkerSetup
from undersong.simulate.kept import KEPT
from undersong.simulate.loading import Data, load_rows
from undersong.simulate.planning import plan_job, prepared, rule_of
from undersong.simulate.rounds import Course, Report
from undersong.simulate.rows import ClientRows, storable
from undersong.simulate.runs import Run, record

WORK = "work"


def simulate(
    job: Mapping[str, Any],
    data: Data,
    *,
    clients: int | None = None,
    partition: str = "iid",
    sample: str | float | None = None,
    drop: float = 0.0,
    seed: int | None = None,
    engine: str = "quantised",
    noise_servers: int = 2,
    slow: str | None = None,
    round_s: float | None = None,
    workers: str | int = "auto",
    out: str | Path | None = None,
    recipes: Sequence[str | Path] = (),
    report: Report | None = None,
) -> Run:
    """Run a training job over simulated clients, or go on with one that was interrupted, and return the run.

    job: the document that a platform would get. data: see `undersong.simulate.loading.Data`. clients: how many;
    left out where the data say it. partition: ``iid``, ``dirichlet:A``, ``shards:K`` or ``by:COLUMN``. sample: the
    share of clients that a round asks, or ``poisson:Q`` to toss for each; without it the job's own. drop: the
    probability that a client that was asked does not answer. seed: without it the job's ``cohort.seed``. engine:
    ``quantised`` as deployed, or ``plain`` floats. noise_servers: 2 as deployed, 1 as a trusted server. slow:
    ``lognormal:S`` or ``SHARE:FACTOR``; clients that are not in time for the job's deadline, or for its
    ``cohort.enough``, are left out. round_s: seconds that an ordinary client takes for a round, 60 without it.
    workers: processes, ``auto`` for one on each core, 0 to work in this one; ``ray`` or ``ray:ADDRESS`` for tasks of
    Ray. out: the folder of results and checkpoints; a temporary one without it. recipes: files of own recipes.
    report: gets the share that is done, 0..1.

    Raises `ConditionsInvalid`, and `UndersongError` where a recipe fails or the model diverges.
    """
    conditions = conditions_of(
        clients=clients,
        partition=partition,
        sample=sample,
        drop=drop,
        seed=seed,
        engine=engine,
        noise_servers=noise_servers,
        slow=slow,
        round_s=round_s,
    )
    own = [Path(path) for path in recipes]
    known = _recipes(own)
    document = prepared(job, conditions)
    asked_for = document.get("recipe") or {}
    own_load = next((getattr(r, "load_columns", None) for r in known if r.spec.name == asked_for.get("name")), None)
    loaded = load_rows(data, document, [recipe.spec for recipe in known], conditions, _seed(document), own_load)
    rows = loaded.rows
    specs = [recipe.spec for recipe in known]
    planned = plan_job(document, loaded.schema, specs, rows.population, rows.told, conditions)
    name = planned.resolved.recipe.name
    recipe = next(each for each in known if each.spec.name == name)
    asked = _asked(document, conditions, rows, recipe)
    folder = Folder(Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="undersong-run-")), asked)
    count = workers_of(
        workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        return _run(planned, rows, conditions, _Place(folder, recipe, own, count), report or _ignored)
    finally:
        folder.close()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a simulation runs: its folder, its recipe, and how many workers."""

    folder: Folder
    recipe: Recipe
    own: Sequence[Path]
    workers: int | RayAddress


def _run(planned: Job, rows: ClientRows, conditions: Conditions, place: _Place, report: Report) -> Run:
    seed, folder = rule_of(planned).seed, place.folder
    executor = _executor(rows, place, conditions, seed)
    try:
        course = Course(planned, rows, conditions, executor, folder, report)
        ended = course.run()
    finally:
        executor.close()
    told = {**conditions.document(), "clients": rows.population.count, "seed": seed, "release": __version__}
    return record(ended, folder, course.model, told)


def _executor(rows: ClientRows, place: _Place, conditions: Conditions, seed: int) -> Executor:
    if not place.workers:
        return Inline(rows, place.recipe, conditions.engine, seed, place.folder.kept)
    paths = tuple(str(path.resolve()) for path in place.own)
    scratch, name = str(place.folder.path / WORK), place.recipe.spec.name
    if isinstance(place.workers, RayAddress):
        from undersong.simulate.ray_tasks import RayTasks, TaskSetup

        setup = TaskSetup(name, paths, conditions.engine, seed)
        return RayTasks(rows, setup, place.folder.kept, place.workers.text)
    kept = str(place.folder.path / KEPT)
    return Pool(rows, WorkerSetup(scratch, kept, name, paths, conditions.engine, seed), place.workers)


def _recipes(own: Sequence[Path]) -> list[Recipe]:
    try:
        return [*map(load_recipe, BUILT_IN), *own_recipes(own)]
    except RecipeError as refusal:
        raise UndersongError(refusal.detail, remedy="correct the recipe's file") from None
    except OSError as error:
        raise UndersongError(f"recipe {error.filename}: {error.strerror}", remedy="name a Python file") from None


def _asked(document: Mapping[str, Any], conditions: Conditions, rows: ClientRows, recipe: Recipe) -> dict[str, Any]:
    """Return all that the result follows from: a folder goes on with a simulation only where none of it differs."""
    data = rows.data
    arrays = (data.features, data.label, data.train, data.test, rows.split.rows, rows.split.offsets)
    digests = [digest_of(np.ascontiguousarray(storable(array)).reshape(-1).view(np.uint8).data) for array in arrays]
    return {
        "job": dict(document),
        "recipe": recipe.spec.digest,
        "data": digest_of("".join(digests).encode()),
        "release": __version__,
        **conditions.document(),
    }


def _seed(document: Mapping[str, Any]) -> int:
    cohort = document.get("cohort")
    seed = cohort.get("seed", 0) if isinstance(cohort, Mapping) else 0
    return seed if isinstance(seed, int) and seed >= 0 else 0  # a job with another is refused when it is judged


def _ignored(_: float) -> None:
    """Tell the progress to no one."""
