"""A finished simulation: a job's record as the coordinator tells it, marked as simulated, its model and its plot."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from undersong.client.types import Job, Round
from undersong.errors import UndersongError
from undersong.progress import HEADLINE
from undersong.services.coordinator.domain import jobs
from undersong.services.coordinator.domain.spec import JobSpec
from undersong.shared.learning.metrics import cautions_of
from undersong.shared.names import hint
from undersong.simulate.checkpoints import Folder
from undersong.simulate.plots import Plot, Points, png, svg

RUN: Final = "run.json"
MODEL: Final = "model.safetensors"
SECONDS: Final = "simulated_s"
PLOT: Final = "metrics.svg"
OVER_TIME: Final = "metrics-over-time"
TABLE: Final = "metrics.csv"
TRAINING_LOSS: Final = "training loss"


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

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Return the ended simulation of a folder; raises `UndersongError` where there is none."""
        path = Path(folder) / RUN
        try:
            document = json.loads(path.read_bytes())
            rounds = tuple(map(Round.model_validate, document["rounds"]))
            return cls(Path(folder), Job.model_validate(document["job"]), rounds, dict(document["simulated"]))
        except OSError as error:
            said = f"{path} cannot be read: {error.strerror}"
        except (LookupError, TypeError, ValueError):
            said = f"{path} is not the record of a simulation"
        raise UndersongError(said, remedy="name the folder that `undersong simulate --out` wrote")

    @property
    def metrics(self) -> dict[str, float]:
        """The last evaluation's metrics; nothing where there was none."""
        rows = self.frame()
        return {name: value for name, value in rows[-1].items() if name not in ("round", SECONDS)} if rows else {}

    def frame(self) -> list[dict[str, float]]:
        """Return a row for each evaluation: the round, and its metrics; `pandas.DataFrame(run.frame())` takes it.

        Where time is simulated, `simulated_s` is how many seconds after the beginning it was.
        """
        return [
            {"round": float(round_.number), **_time(round_), **(round_.metrics or {})}
            for round_ in self.rounds
            if round_.kind == "evaluate"
        ]

    def reached(self, metric: str, value: float) -> int | None:
        """Return the first round whose evaluation has at least this value of a metric; None where none has."""
        row = self._first(metric, value)
        return None if row is None else int(row["round"])

    def reached_s(self, metric: str, value: float) -> float | None:
        """Return after how many simulated seconds a metric first had at least this value; None where it never had, or
        no time was simulated.
        """
        row = self._first(metric, value)
        return None if row is None else row.get(SECONDS)

    def _first(self, metric: str, value: float) -> dict[str, float] | None:
        return next((row for row in self.frame() if row.get(metric, float("-inf")) >= value), None)


def _time(round_: Round) -> dict[str, float]:
    simulated = (round_.model_extra or {}).get("simulated")
    return {} if simulated is None else {SECONDS: float(simulated["at_s"])}


def record(job: jobs.Job, folder: Folder, model: bytes | None, simulated: Mapping[str, Any]) -> Run:
    """Write the record, the model and the plot into the simulation's folder."""
    rounds = list(folder.rounds())
    document = {"simulated": dict(simulated), "job": _told(job), "rounds": rounds}
    if model is not None:
        folder.write(MODEL, model)
    run = Run(folder.path, Job.model_validate(document["job"]), tuple(map(Round.model_validate, rounds)), simulated)
    metric = _headline(run)
    title = f"{job.spec.name} (simulated)"
    _draw(folder, PLOT.removesuffix(".svg"), Plot({"": _points(run, metric, "round")}, title, "round", metric))
    if over_time := _points(run, metric, SECONDS):
        _draw(folder, OVER_TIME, Plot({"": over_time}, title, "simulated seconds", metric))
    if rows := run.frame():
        folder.write(TABLE, _csv(rows).encode())
    folder.write(RUN, json.dumps(document, indent=1).encode() + b"\n")
    return run


def compare_runs(runs: Mapping[str, Run]) -> list[dict[str, float | str]]:
    """Return a row for each evaluation of each run: `run`, its name, and what `Run.frame` has."""
    return [{"run": name, **row} for name, run in runs.items() for row in run.frame()]


def plot_runs(
    runs: Mapping[str, Run], metric: str, path: str | Path, *, over: Literal["round", "simulated_s"] = "round"
) -> Path:
    """Write a plot of one metric of several runs, over rounds or simulated seconds, and return the path.

    The name's ending says which form, .svg or .png. Raises `UndersongError` where no run has the metric.
    """
    target, curves = Path(path), {name: _points(run, metric, over) for name, run in runs.items()}
    if not any(curves.values()):
        known = sorted({each for run in runs.values() for row in run.frame() for each in row} - {"round", SECONDS})
        said = f"no run has {metric} over {over}{hint(metric, known)}"
        raise UndersongError(said, remedy="name a metric of the jobs' evaluations; time is simulated with slow=")
    title = "simulated runs"
    plot = Plot(curves, title, "round" if over == "round" else "simulated seconds", metric)
    if target.suffix not in (".svg", ".png"):
        raise UndersongError(f"{target.name} says not which form", remedy="end the name in .svg or .png")
    made = svg(plot) if target.suffix == ".svg" else png(plot)
    if made is None:
        raise UndersongError("PNG files are written by Pillow, which is not installed", remedy="pip install pillow")
    target.write_bytes(made)
    return target


def _headline(run: Run) -> str:
    rows = run.frame()
    return next((name for name in HEADLINE if any(name in row for row in rows)), TRAINING_LOSS)


def _points(run: Run, metric: str, over: str) -> Points:
    if metric != TRAINING_LOSS:
        return [(row[over], row[metric]) for row in run.frame() if metric in row and over in row]
    trained = [each for each in run.rounds if each.kind == "train" and (each.result or {}).get("loss") is not None]
    places = [_time(each).get(SECONDS) if over == SECONDS else float(each.number) for each in trained]
    losses = [float((each.result or {})["loss"]) for each in trained]
    return [(place, loss) for place, loss in zip(places, losses, strict=True) if place is not None]


def _draw(folder: Folder, name: str, plot: Plot) -> None:
    folder.write(f"{name}.svg", svg(plot))
    if (picture := png(plot)) is not None:
        folder.write(f"{name}.png", picture)


def _csv(rows: Sequence[Mapping[str, float]]) -> str:
    """Return rows as CSV; what one of them lacks is left empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


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
