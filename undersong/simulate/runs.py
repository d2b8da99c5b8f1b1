"""A finished simulation: a job's record as the coordinator tells it, marked as simulated, its model and its plot."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from undersong.client.types import Job, Round
from undersong.progress import HEADLINE
from undersong.services.coordinator.domain import jobs
from undersong.services.coordinator.domain.spec import JobSpec
from undersong.shared.learning.metrics import cautions_of
from undersong.simulate.checkpoints import Folder
from undersong.simulate.plots import curve

RUN: Final = "run.json"
MODEL: Final = "model.safetensors"
PLOT: Final = "metrics.svg"


@dataclass(frozen=True, slots=True)
class Run:
    """What a simulation made. `job` and `rounds` have the form in which a platform tells those of a real job."""

    folder: Path
    job: Job
    rounds: tuple[Round, ...]
    simulated: Mapping[str, Any]

    @property
    def model(self) -> Path:
        """The newest model's file (safetensors)."""
        return self.folder / MODEL

    @property
    def plot(self) -> Path:
        """The plot of the first metric that people look for, over rounds (SVG)."""
        return self.folder / PLOT

    @property
    def metrics(self) -> dict[str, float]:
        """The last evaluation's metrics; nothing where there was none."""
        rows = self.frame()
        return {name: value for name, value in rows[-1].items() if name != "round"} if rows else {}

    def frame(self) -> list[dict[str, float]]:
        """Return a row for each evaluation: the round, and its metrics; `pandas.DataFrame(run.frame())` takes it."""
        return [
            {"round": float(round_.number), **(round_.metrics or {})}
            for round_ in self.rounds
            if round_.kind == "evaluate"
        ]

    def reached(self, metric: str, value: float) -> int | None:
        """Return the first round whose evaluation has at least this value of a metric; None where none has."""
        return next((int(row["round"]) for row in self.frame() if row.get(metric, float("-inf")) >= value), None)


def record(job: jobs.Job, folder: Folder, model: bytes | None, simulated: Mapping[str, Any]) -> Run:
    """Write the record, the model and the plot into the simulation's folder."""
    rounds = list(folder.rounds())
    document = {"simulated": dict(simulated), "job": _told(job), "rounds": rounds}
    if model is not None:
        folder.write(MODEL, model)
    run = Run(folder.path, Job.model_validate(document["job"]), tuple(map(Round.model_validate, rounds)), simulated)
    metric, points = _curve(run)
    title = f"{job.spec.name} (simulated)"
    folder.write(PLOT, curve(points, title=title, across="round", up=metric).encode())
    folder.write(RUN, json.dumps(document, indent=1).encode() + b"\n")
    return run


def _curve(run: Run) -> tuple[str, list[tuple[float, float]]]:
    rows = run.frame()
    known = [name for name in HEADLINE if any(name in row for row in rows)]
    if known:
        return known[0], [(row["round"], row[known[0]]) for row in rows if known[0] in row]
    trained = [
        round_ for round_ in run.rounds if round_.kind == "train" and (round_.result or {}).get("loss") is not None
    ]
    return "training loss", [(float(round_.number), float((round_.result or {})["loss"])) for round_ in trained]


def _told(job: jobs.Job) -> dict[str, Any]:
    """Return the job as the coordinator's API tells one."""
    done, spec = job.progress, job.spec
    return {
        "id": job.id,
        "federation_id": job.federation_id,
        "name": spec.name,
        "state": job.state.value,
        "reason": job.reason,
        "explanation": job.explanation,
        "last_failure": None,
        "causes": [],
        "spec": spec.model_dump(mode="json"),
        "features": list(job.resolved.features),
        "label": job.resolved.label,
        "columns": [column.model_dump(mode="json") for column in job.resolved.columns],
        "unused": [unused.model_dump(mode="json") for unused in job.resolved.unused],
        "recipe_digest": job.resolved.recipe.digest,
        "sites": [],
        "model_id": job.model_id,
        "version_id": job.version_id,
        "progress": {
            "statistics_done": done.statistics_done,
            "trained": done.trained,
            "rounds": spec.rounds if isinstance(spec, JobSpec) else 0,
            "evaluated": done.evaluated,
            "failures": done.failures,
            "asked": done.asked,
            "scores": [dict(score) for score in done.scores],
        },
        "round_id": None,
        "waiting_since": None,
        "created_by": job.created_by,
        "created_at": job.created_at.isoformat(),
        "finished_at": None if job.finished_at is None else job.finished_at.isoformat(),
        "privacy": None if job.resolved.privacy is None else job.resolved.privacy.model_dump(mode="json"),
        "cautions": cautions_of(done.scores[-1]) if done.scores else [],
    }
