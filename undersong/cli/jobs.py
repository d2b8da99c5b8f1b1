"""`undersong job …`."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undersong.cli import common, figures, job_comparison, job_page
from undersong.cli.bars import bars
from undersong.cli.following import follow_job
from undersong.cli.lookup import find_job
from undersong.client import Client
from undersong.client.types import Job, Validation
from undersong.errors import UndersongError
from undersong.progress import JobProgress, headline
from undersong.shared.documents import merged
from undersong.shared.errors import Refusal
from undersong.shared.files import read_input
from undersong.shared.spreadsheets import csv_text
from undersong.shared.web.jsons import check_json
from undersong.shared.wire.privacy import terms_sentence
from undersong.shared.yaml_texts import load_document

if TYPE_CHECKING:
    from undersong.audit.trial_statistics import StatisticsTrial

app = typer.Typer(no_args_is_help=True, help="Training jobs.")
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job, by name or id.")]
SpecFile = Annotated[Path, typer.Argument(help="A file, job.yaml for example, or - for standard input.")]


@app.command()
def submit(
    file: SpecFile,
    watch_it: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show the progress.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check it; every fault at once.")] = False,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Start a job from a file."""
    spec = read_spec(file)
    with common.connect(profile) as client:
        if dry_run:
            _check(client.validate_job(spec, federation=federation), as_json=as_json)
            return
        job = client.submit_job(spec, federation=federation)
        _started(client, job, watch_it=watch_it, as_json=as_json)


@app.command("try")
def try_(
    file: SpecFile,
    data: Annotated[
        Path, typer.Option("--data", dir_okay=False, exists=True, help="The datasets.yaml with rows to try it on.")
    ] = Path("datasets.yaml"),
    recipe: Annotated[
        list[Path] | None, typer.Option("--recipe", exists=True, help="Source of a recipe of your own.")
    ] = None,
    as_json: common.AsJson = False,
) -> None:
    """Run a job on this machine's rows, mock data for example: no platform is asked, no budget is spent.

    A training job's metrics are those of the held-out rows. A statistics job is answered as by as many sites as it
    needs, each with these rows; its answers are marked as mock.
    """
    from undersong.audit.trial import kind_of, try_job  # brings numpy and the agent's runner

    spec = read_spec(file)
    common.quiet_logs()
    with tempfile.TemporaryDirectory(prefix="undersong-try-") as folder, bars() as bar_of:
        place, kind = Path(folder).resolve() / "trainer", kind_of(spec)
        if kind == "statistics":
            from undersong.audit.trial_statistics import try_statistics

            tried = asyncio.run(try_statistics(spec, data, place, bar_of("asking")))
        else:
            made = asyncio.run(try_job(spec, data, recipe or (), place, bar_of("training")))
    if kind == "statistics":
        _show_answers(tried, file, as_json=as_json)
        return
    if as_json:
        common.print_json({"mock": True, **asdict(made)})
        return
    said = f"{made.rounds} rounds on {made.training_rows} rows, {made.parameters} parameters: {headline(made.metrics)}"
    common.console.print(said, markup=False, soft_wrap=True)
    if isinstance(spec.get("privacy"), dict):
        plan = f"undersong privacy plan {common.quoted(file)}"
        common.console.print(
            f"without the noise that the job asks for, of which {plan} tells", style="dim", markup=False
        )
    common.next_step(f"undersong job submit {common.quoted(file)} --dry-run")


@app.command()
def watch(job_id: JobId, profile: common.ProfileName = None, as_json: common.AsJson = False) -> None:
    """Show a job's progress until it ends; exit code 1 when it does not succeed."""
    with common.connect(profile) as client:
        job = follow(client, find_job(client, job_id).id, quiet=as_json)
        if as_json:
            common.print_json(job.model_dump(mode="json"))


@app.command("list")
def list_(
    state: Annotated[str | None, typer.Option("--state", help="Jobs in this state only.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="A part of the name.")] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="Who submitted it.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="One of the job's tags.")] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", help="created, name or state; -name from last to first.")
    ] = None,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Jobs, the newest first."""
    with common.connect(profile) as client:
        chosen = client.federation(federation).id if federation else None
        columns = {
            "name": lambda job: job.name,
            "state": lambda job: job.state,
            "reason": lambda job: job.reason,
            "made": lambda job: job.created_at,
            "id": lambda job: job.id,
        }
        found = client.jobs(chosen, state=state, name=name, owner=owner, tag=tag, sort=sort)
        filtered = any((state, name, owner, tag))
        empty = "no job fits: undersong job list shows all" if filtered else "none yet: undersong job submit job.yaml"
        common.show(found, columns, as_json=as_json, empty=empty)


@app.command("show")
def show_(
    job_id: JobId,
    all_rounds: Annotated[bool, typer.Option("--all", help="Every round, however many there are.")] = False,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """One job: its state, who takes part, and its rounds."""
    with common.connect(profile) as client:
        job = find_job(client, job_id)
        rounds = client.rounds(job.id)
        if as_json:
            common.print_json(
                {"job": job.model_dump(mode="json"), "rounds": [round_.model_dump(mode="json") for round_ in rounds]}
            )
            return
        spent = client.spent(job.id)
        job_page.show(job, rounds, client.participation(job.id), spent=spent, all_rounds=all_rounds)


@app.command()
def clone(
    job_id: JobId,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="A changed setting, recipe.params.epochs=2; without a value it is left out.",
        ),
    ] = None,
    watch_it: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show the progress.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check it; every fault at once.")] = False,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Start a job again, with the settings that --set changes."""
    changes = changes_of(settings or [])
    with common.connect(profile) as client:
        source = find_job(client, job_id)
        if dry_run:
            _check(client.validate_job(merged(source.spec, changes)), as_json=as_json)
            return
        job = client.clone_job(source.id, changes)
        _started(client, job, watch_it=watch_it, as_json=as_json)


@app.command()
def compare(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="Up to eight jobs, by name or id.")],
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Write every evaluation of each job, for a spreadsheet.")
    ] = False,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Show jobs side by side: the settings that differ, and the newest metrics."""
    with common.connect(profile) as client:
        found = client.compare_jobs([find_job(client, name).id for name in jobs])
    if as_json:
        common.print_json(found.model_dump(mode="json"))
    elif as_csv:
        typer.echo(csv_text(job_comparison.rows(found)), nl=False)
    else:
        job_comparison.show(found)


@app.command()
def pause(job_id: JobId, profile: common.ProfileName = None) -> None:
    """Start no further round; the present one ends."""
    with common.connect(profile) as client:
        common.console.print(_stands(client.pause_job(find_job(client, job_id).id)))


@app.command()
def resume(job_id: JobId, profile: common.ProfileName = None) -> None:
    """Go on with a paused job."""
    with common.connect(profile) as client:
        common.console.print(_stands(client.resume_job(find_job(client, job_id).id)))


@app.command()
def cancel(job_id: JobId, profile: common.ProfileName = None) -> None:
    """End a job now; agents stop training within one heartbeat."""
    with common.connect(profile) as client:
        common.console.print(_stands(client.cancel_job(find_job(client, job_id).id)))


def changes_of(settings: Sequence[str]) -> dict[str, Any]:
    """Return settings such as `recipe.params.epochs=2` as a JSON merge patch; values are YAML, an empty one is null."""
    made: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        names = path.strip().lstrip("/").replace("/", ".").split(".")
        if not equals or not all(names):
            raise UndersongError(f"{setting!r} is no setting", remedy="--set recipe.params.epochs=2")
        try:
            value = load_document(text)
            json.dumps(value, allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise UndersongError(f"the value of {setting!r} cannot be read: {' '.join(str(error).split())}") from error
        for name in reversed(names):
            value = {name: value}
        made = _joined(made, value)
    return made


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return both patches as one; of a field in both, the other's."""
    both = {name: _joined(one[name], other[name]) for name in one if _are_mappings(one[name], other.get(name))}
    return {**one, **other, **both}


def _are_mappings(one: Any, other: Any) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)


def _started(client: Client, job: Job, *, watch_it: bool, as_json: bool) -> None:
    if as_json:
        common.print_json(job.model_dump(mode="json"))
    else:
        common.console.print(f"job {job.id} is {job.state}")
        _warn(job.warnings)
    if watch_it:
        follow(client, job.id, quiet=as_json)
    elif not as_json:
        common.next_step(f"undersong job watch {job.id}")


def read_spec(file: Path, example: str = "examples/hospital/job.yaml") -> dict[str, Any]:
    """Return a mapping, such as a job's specification, from YAML or JSON; "-" is standard input.

    The remedy of a file without a mapping points at `example`.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else read_input(file).decode()
        if file.suffix == ".json":
            check_json(text.encode())
        spec = json.loads(text) if file.suffix == ".json" else load_document(text)
        json.dumps(spec, allow_nan=False, ensure_ascii=False).encode()  # YAML also holds what no request can
    except OSError as error:
        raise UndersongError(
            f"{file} cannot be read: {error.strerror}", remedy="name a file, or - for stdin"
        ) from error
    except (ValueError, TypeError, RecursionError, Refusal) as error:
        raise UndersongError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(spec, dict):
        raise UndersongError(f"{file} holds no mapping", remedy=f"see {example}")
    return spec


def follow(client: Client, job_id: str, *, quiet: bool = False) -> Job:
    """Show progress until the job ends; UndersongError when it does not succeed."""
    job = client.job(job_id)
    total = int(job.spec.get("rounds", 0)) or None  # none of training where the job only evaluates
    seen = follow_job(client, job, total=total, done=lambda found: found.trained, note=note, quiet=quiet)
    job = client.job(job_id)
    common.require_success(job)
    if not quiet:
        rounds = f"{seen.trained} rounds of training" if seen.trained else f"{seen.answered} rounds of sums"
        trained = f" after {rounds}" if job.spec.get("kind") != "evaluate" else ""
        common.console.print(f"job {job_id} succeeded{trained}; {seen.measured}")
    return job


def note(seen: JobProgress) -> str:
    """Return what happens now, and the newest metrics."""
    newest = seen.newest
    now = seen.state if newest is None or seen.state != "running" else f"{newest.title}: {newest.phase}"
    return f"{now}  {seen.measured}"


def _show_answers(tried: "StatisticsTrial", file: Path, *, as_json: bool) -> None:
    cost = None if tried.terms is None else {"epsilon": tried.terms.epsilon, "delta": tried.terms.delta}
    if as_json:
        warnings = [asdict(warning) for warning in tried.warnings]
        head = {"mock": True, "sites": tried.sites, "rows_of_each": tried.rows, "privacy": cost, "warnings": warnings}
        common.print_json(head | tried.answers.model_dump(mode="json"))
        return
    _warn([asdict(warning) for warning in tried.warnings])
    common.console.print("mock answers: no site was asked", style="bold", markup=False)
    source = f"mock: {tried.sites} sites with the same {tried.rows} rows each"
    figures.show_all(tried.answers, common.console, source)
    if tried.terms is not None:
        said = terms_sentence(tried.terms.model_dump())
        common.console.print(f"noise as at real sites: {said}", style="dim", markup=False, soft_wrap=True)
    common.next_step(f"undersong stats submit {common.quoted(file)} --dry-run")


def _stands(job: Job) -> str:
    return f"job {job.name} ({job.id}) is {job.state}"


def _check(result: Validation, *, as_json: bool) -> None:
    if as_json:
        common.print_json(result.model_dump(mode="json"))
        return
    common.console.print(f"the job is valid: {len(result.features)} columns at {len(result.sites)} sites")
    if result.features:
        common.console.print(f"  features: {', '.join(result.features)}", markup=False, soft_wrap=True)
    if result.label is not None:
        common.console.print(f"  label: {result.label}{_classes(result)}", markup=False, soft_wrap=True)
    for column in result.unused:
        common.console.print(f"  not used: {column['name']} ({column['reason']})", markup=False, soft_wrap=True)
    if result.privacy is not None:
        common.console.print(f"  privacy: {result.privacy.sentence}", markup=False, soft_wrap=True)
    _warn(result.warnings)


def _classes(result: Validation) -> str:
    """Return a label's classes in their order, where it has some: of two the second is the one that is predicted."""
    found = next((each.get("categories") for each in result.columns if each["name"] == result.label), None)
    if not found:
        return ""
    shown = ", ".join(found[:10]) + ", …" * (len(found) > 10)
    return f" ({shown}{f': positive is {found[1]}' if len(found) == 2 else ''})"


def _warn(warnings: list[dict[str, Any]]) -> None:
    for warning in warnings:
        common.complaints.print(f"  warning: {warning.get('path', '/')}: {warning.get('message', '')}", markup=False)
