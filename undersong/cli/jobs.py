"""`undersong job …`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from shared.yaml_texts import load_document
from undersong.cli import common
from undersong.client import Client
from undersong.client.types import Job
from undersong.errors import UndersongError
from undersong.progress import JobProgress, headline

app = typer.Typer(no_args_is_help=True, help="Training jobs.")
JobId = Annotated[str, typer.Argument(help="The job's id.")]


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="job.yaml or job.json.")],
    watch_it: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show the progress.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check it; every fault at once.")] = False,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Start a job from a file."""
    spec = read_spec(file)
    with common.connect(profile) as client:
        wanted = federation or spec.pop("federation", None)
        if wanted or not spec.get("federation_id"):
            spec["federation_id"] = common.find_federation(client, wanted).id
        if dry_run:
            _check(client, spec, as_json=as_json)
            return
        job = client.submit_job(spec)
        if as_json:
            common.print_json(job.model_dump(mode="json"))
        else:
            common.console.print(f"job {job.id} is {job.state}")
            _warn(job.warnings)
        if watch_it:
            follow(client, job.id, quiet=as_json)
        elif not as_json:
            common.console.print(f"next: undersong job watch {job.id}")


@app.command()
def watch(job_id: JobId, profile: common.ProfileName = None, as_json: common.AsJson = False) -> None:
    """Show a job's progress until it ends; exit code 1 when it does not succeed."""
    with common.connect(profile) as client:
        job = follow(client, job_id, quiet=as_json)
        if as_json:
            common.print_json(job.model_dump(mode="json"))


@app.command("list")
def list_(
    federation: common.FederationName = None, profile: common.ProfileName = None, as_json: common.AsJson = False
) -> None:
    """Jobs."""
    with common.connect(profile) as client:
        chosen = common.find_federation(client, federation).id if federation else None
        columns = {
            "name": lambda job: job.name,
            "state": lambda job: job.state,
            "reason": lambda job: job.reason,
            "made": lambda job: job.created_at,
            "id": lambda job: job.id,
        }
        common.show(client.jobs(chosen), columns, as_json=as_json, empty="none yet: undersong job submit job.yaml")


@app.command("show")
def show_(job_id: JobId, profile: common.ProfileName = None, as_json: common.AsJson = False) -> None:
    """One job and its rounds."""
    with common.connect(profile) as client:
        job, rounds = client.job(job_id), client.rounds(job_id)
        if as_json:
            common.print_json(
                {"job": job.model_dump(mode="json"), "rounds": [round_.model_dump(mode="json") for round_ in rounds]}
            )
            return
        common.show_one(job, as_json=False)
        common.show_excluded(job, common.console)
        columns = {
            "round": lambda r: r.number,
            "kind": lambda r: r.kind,
            "attempt": lambda r: r.attempt,
            "phase": lambda r: r.phase,
            "reason": lambda r: r.reason,
            "metrics": lambda r: headline(r.metrics or {}),
            "id": lambda r: r.id,
        }
        common.show(rounds, columns, as_json=False, empty="no round yet")


@app.command()
def pause(job_id: JobId, profile: common.ProfileName = None) -> None:
    """Start no further round; the present one ends."""
    with common.connect(profile) as client:
        common.console.print(f"job {job_id} is {client.pause_job(job_id).state}")


@app.command()
def resume(job_id: JobId, profile: common.ProfileName = None) -> None:
    """Go on with a paused job."""
    with common.connect(profile) as client:
        common.console.print(f"job {job_id} is {client.resume_job(job_id).state}")


@app.command()
def cancel(job_id: JobId, profile: common.ProfileName = None) -> None:
    """End a job now; agents stop training within one heartbeat."""
    with common.connect(profile) as client:
        common.console.print(f"job {job_id} is {client.cancel_job(job_id).state}")


def read_spec(file: Path) -> dict[str, Any]:
    """A job's specification from YAML or JSON."""
    try:
        spec = json.loads(file.read_text()) if file.suffix == ".json" else load_document(file.read_text())
    except ValueError as error:
        raise UndersongError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(spec, dict):
        raise UndersongError(f"{file} holds no mapping", remedy="see examples/hospital/job.yaml")
    return spec


def follow(client: Client, job_id: str, *, quiet: bool = False) -> Job:
    """Show progress until the job ends; UndersongError when it does not succeed."""
    job, seen = client.job(job_id), JobProgress()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=common.complaints, disable=quiet or not sys.stderr.isatty()) as progress:
        bar = progress.add_task(job.name, total=int(job.spec.get("rounds", 0)) or None, note="")
        for event in client.follow(job_id):
            seen.take(event)
            if event.type == "job.polled":
                seen.take_rounds(client.rounds(job_id))
            progress.update(bar, completed=seen.trained, note=note(seen))
    job = client.job(job_id)
    common.require_success(job)
    if not quiet:
        common.console.print(f"job {job_id} succeeded after {seen.trained} rounds of training; {seen.measured}")
    return job


def note(seen: JobProgress) -> str:
    """What happens now, and the newest metrics."""
    newest = seen.newest
    now = seen.state if newest is None or seen.state != "running" else f"{newest.title}: {newest.phase}"
    return f"{now}  {seen.measured}"


def _check(client: Client, spec: dict[str, Any], *, as_json: bool) -> None:
    result = client.validate_job(spec)
    if as_json:
        common.print_json(result.model_dump(mode="json"))
        return
    common.console.print(f"the job is valid: {len(result.features)} columns at {len(result.sites)} sites")
    if result.features:
        common.console.print(f"  features: {', '.join(result.features)}", markup=False, soft_wrap=True)
    if result.label is not None:
        common.console.print(f"  label: {result.label}", markup=False, soft_wrap=True)
    for column in result.unused:
        common.console.print(f"  not used: {column['name']} ({column['reason']})", markup=False, soft_wrap=True)
    _warn(result.warnings)


def _warn(warnings: list[dict[str, Any]]) -> None:
    for warning in warnings:
        common.complaints.print(f"  warning: {warning.get('path', '/')}: {warning.get('message', '')}", markup=False)
