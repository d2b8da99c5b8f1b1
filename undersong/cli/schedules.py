"""`undersong schedule …`."""

from typing import Annotated

import typer

from undersong.cli import common
from undersong.cli.jobs import SpecFile, read_spec
from undersong.client import Client
from undersong.client.naming import one_named
from undersong.client.types import Schedule

app = typer.Typer(no_args_is_help=True, help="Jobs that are submitted again and again.")
ScheduleId = Annotated[str, typer.Argument(metavar="SCHEDULE", help="The schedule, by name or id.")]


@app.command()
def create(
    file: SpecFile,
    cron: Annotated[str, typer.Option("--cron", help='Five fields: "30 2 * * mon" is Mondays at 02:30.')],
    timezone: Annotated[str, typer.Option("--timezone", help="Europe/Berlin, for example.")] = "UTC",
    name: Annotated[str | None, typer.Option("--name", help="By default the job's.")] = None,
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Submit also while the job of the time before still runs.")
    ] = False,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Submit a job at the times of a cron expression, with your roles; it is judged now, and again each time."""
    spec = read_spec(file)
    with common.connect(profile) as client:
        made = client.create_schedule(spec, cron, timezone, name=name, overlap=overlap, federation=federation)
    if as_json:
        common.print_json(made.model_dump(mode="json"))
    else:
        common.console.print(f"{made.words} ({made.timezone}), first {_next(made)}", markup=False, soft_wrap=True)
        common.next_step(f"undersong schedule show {made.id}")


@app.command("list")
def list_(
    federation: common.FederationName = None, profile: common.ProfileName = None, as_json: common.AsJson = False
) -> None:
    """The schedules of a federation, and what came of the last time of each."""
    columns = {
        "name": lambda one: one.name,
        "when": lambda one: f"{one.words} ({one.timezone})",
        "state": lambda one: one.state,
        "next": _next,
        "last": _last,
        "made by": lambda one: one.created_by,
        "id": lambda one: one.id,
    }
    with common.connect(profile) as client:
        found = client.schedules(federation)
    empty = 'none yet: undersong schedule create job.yaml --cron "30 2 * * mon"'
    common.show(found, columns, as_json=as_json, empty=empty)


@app.command("show")
def show_(
    schedule: ScheduleId,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """A schedule with its document, its next times, and what came of the last."""
    with common.connect(profile) as client:
        common.show_one(_find(client, schedule, federation), as_json=as_json)


@app.command()
def pause(schedule: ScheduleId, federation: common.FederationName = None, profile: common.ProfileName = None) -> None:
    """Submit no further job; one that runs goes on. Again changes nothing."""
    with common.connect(profile) as client:
        found = client.pause_schedule(_find(client, schedule, federation).id)
    common.console.print(f"schedule {found.name} is {found.state}", markup=False)


@app.command()
def resume(schedule: ScheduleId, federation: common.FederationName = None, profile: common.ProfileName = None) -> None:
    """Submit jobs again from the next time on. Again changes nothing."""
    with common.connect(profile) as client:
        found = client.resume_schedule(_find(client, schedule, federation).id)
    common.console.print(f"schedule {found.name} is {found.state}, next {_next(found)}", markup=False)


@app.command()
def delete(schedule: ScheduleId, federation: common.FederationName = None, profile: common.ProfileName = None) -> None:
    """Delete a schedule; its jobs stay. Again changes nothing."""
    with common.connect(profile) as client:
        client.delete_schedule(schedule if schedule.startswith("sch_") else _find(client, schedule, federation).id)
    common.console.print(f"schedule {schedule} is deleted", markup=False)


def _find(client: Client, schedule: str, federation: str | None) -> Schedule:
    """Return the schedule with this id or name."""
    if schedule.startswith("sch_"):
        return client.schedule(schedule)
    return one_named(client.schedules(federation), schedule, "schedule", "undersong schedule list")


def _next(schedule: Schedule) -> str:
    return f"{schedule.upcoming[0]:%Y-%m-%d %H:%M} UTC" if schedule.upcoming else "–"


def _last(schedule: Schedule) -> str:
    if schedule.last is None:
        return "–"
    return (
        f"{common.ago(schedule.last.at)}: {schedule.last.outcome} {schedule.last.reason or schedule.last.job_id or ''}"
    )
