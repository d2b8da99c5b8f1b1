"""`undersong sweep …`."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Annotated

import typer

from undersong.cli import common
from undersong.cli.jobs import SpecFile, read_spec
from undersong.client import Client
from undersong.client.naming import one_named
from undersong.client.types import Sweep, SweepJob
from undersong.errors import UndersongError
from undersong.shared.spreadsheets import csv_text
from undersong.sweeping import drawn, grid, varied

MOST_SHOWN = 4  # metrics in the table; --metric, --csv and --json have each
app = typer.Typer(no_args_is_help=True, help="Jobs with many settings: which are best?")
SweepId = Annotated[str, typer.Argument(metavar="SWEEP", help="The sweep, by name or id.")]


@app.command()
def create(
    file: SpecFile,
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="PATH=VALUES",
            help="As learning_rate=0.1,0.3 below recipe.params; with --random also 0.001..0.1:log.",
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Its jobs get the tag sweep:NAME.")],
    random: Annotated[
        int | None, typer.Option("--random", metavar="N", min=1, help="N random combinations, not all.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of random combinations: the same seed, the same jobs.")] = 0,
    parallel: Annotated[int, typer.Option("--parallel", min=1, help="How many of its jobs run at a time.")] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check it; every fault of every job.")] = False,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Submit a job for each combination of settings; if one could not be submitted, none is."""
    spec, found = read_spec(file), varied(settings)
    changes = grid(found) if random is None else drawn(found, random, seed)
    with common.connect(profile) as client:
        plan = client.plan_sweep(name, spec, changes, federation=federation)
        if dry_run and as_json:
            common.print_json(plan.model_dump(mode="json"))
            return
        cost = "" if plan.epsilon is None else f"; epsilon {plan.epsilon:.4g} at delta {plan.delta:g} for all together"
        said = f"{plan.jobs} jobs vary {', '.join(plan.parameters)}{cost}"
        common.complaints.print(said, markup=False, soft_wrap=True)
        if dry_run:
            return
        made = client.create_sweep(name, spec, changes, parallel=parallel, federation=federation)
    if as_json:
        common.print_json(made.model_dump(mode="json"))
    else:
        common.console.print(made.id, markup=False)
        common.next_step(f"undersong sweep show {common.quoted(made.name)}")


@app.command("list")
def list_(
    federation: common.FederationName = None, profile: common.ProfileName = None, as_json: common.AsJson = False
) -> None:
    """The sweeps of a federation, newest first."""
    columns = {
        "name": lambda one: one.name,
        "state": lambda one: one.state,
        "jobs": lambda one: ", ".join(f"{count} {state}" for state, count in sorted(one.states.items())),
        "made by": lambda one: one.created_by,
        "made": lambda one: one.created_at,
        "id": lambda one: one.id,
    }
    with common.connect(profile) as client:
        found = client.sweeps(federation)
    empty = "none yet: undersong sweep create job.yaml --name rates --set recipe.params.learning_rate=0.1,0.3"
    common.show(found, columns, as_json=as_json, empty=empty)


@app.command("show")
def show_(
    sweep: SweepId,
    metric: Annotated[str | None, typer.Option("--metric", help="Only this metric, the best job first.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="For a spreadsheet.")] = False,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """The jobs of a sweep: what each varies, its state, and its newest metrics."""
    with common.connect(profile) as client:
        found = _find(client, sweep, federation)
    if metric is not None and metric not in found.metrics:
        known = ", ".join(found.metrics) or "none yet"
        raise UndersongError(f"no job of the sweep has a metric {metric!r}", remedy=f"one of: {known}")
    jobs = found.jobs if metric is None else sorted(found.jobs, key=lambda one: _rank(found, one, metric))
    if as_json:
        common.print_json(found.model_dump(mode="json"))
    elif as_csv:
        columns = _columns(found, found.metrics)
        typer.echo(csv_text([list(columns), *([read(one) for read in columns.values()] for one in jobs)]), nl=False)
    else:
        shown = found.metrics[:MOST_SHOWN] if metric is None else [metric]
        common.show(jobs, _rounded(_columns(found, shown)), as_json=False, empty="no job")
        if found.metrics and (ids := [one.job_id for one in jobs[:8] if one.job_id]):
            common.next_step(f"undersong job compare {' '.join(ids)}")


@app.command()
def cancel(sweep: SweepId, federation: common.FederationName = None, profile: common.ProfileName = None) -> None:
    """Submit no further job of a sweep, and cancel those that have not ended. Again changes nothing."""
    with common.connect(profile) as client:
        found = client.cancel_sweep(_find(client, sweep, federation).id)
    common.console.print(f"sweep {found.name} is {found.state}", markup=False)


def _find(client: Client, sweep: str, federation: str | None) -> Sweep:
    """Return the sweep with this id or name."""
    if sweep.startswith("swp_"):
        return client.sweep(sweep)
    return client.sweep(one_named(client.sweeps(federation), sweep, "sweep", "undersong sweep list").id)


def _columns(sweep: Sweep, metrics: Sequence[str]) -> dict[str, Callable[[SweepJob], object]]:
    """Return what a row of the table has: place, varied values, state, metrics and id, or why there is no job."""
    short = [path.rpartition("/")[2] for path in sweep.parameters]
    names = [path if short.count(name) > 1 else name for path, name in zip(sweep.parameters, short, strict=True)]
    columns: dict[str, Callable[[SweepJob], object]] = {"job": attrgetter("place")}
    columns |= {name: _value(place) for place, name in enumerate(names)}
    columns["state"] = attrgetter("state")
    columns |= {name: _metric(name) for name in metrics}
    return {**columns, "id": lambda one: one.job_id or one.reason}


def _rounded(columns: dict[str, Callable[[SweepJob], object]]) -> dict[str, Callable[[SweepJob], object]]:
    """Return the columns with numbers of four digits, for people."""
    return {name: _short(read) for name, read in columns.items()}


def _short(read: Callable[[SweepJob], object]) -> Callable[[SweepJob], object]:
    def text(one: SweepJob) -> object:
        value = read(one)
        return f"{value:.4g}" if isinstance(value, float) else value

    return text


def _value(place: int) -> Callable[[SweepJob], object]:
    return lambda one: one.values[place]


def _metric(name: str) -> Callable[[SweepJob], object]:
    return lambda one: one.metrics.get(name)


def _rank(sweep: Sweep, job: SweepJob, metric: str) -> tuple[bool, float]:
    """Return a key that sorts the best job first, and those without a value last."""
    value = job.metrics.get(metric)
    return value is None, (value or 0.0) * (1 if metric in sweep.better_small else -1)
