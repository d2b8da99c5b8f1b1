"""What every command shares: the console, the client, JSON or table, one-line errors."""

import json
import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import structlog
import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from undersong.cli.screen import screen
from undersong.client import Client
from undersong.client.naming import one_named
from undersong.client.types import Job, Model, Site
from undersong.errors import ApiError, RowsError, UndersongError
from undersong.profile import DEFAULT_NAME, choose_profile, load_profile, read_profiles
from undersong.shared.terminal import shown_json

PIPED_WIDTH = 200  # what reads a pipe is not helped by ids broken over two lines
console = screen(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
complaints = screen(stderr=True, highlight=False, soft_wrap=True)

ProfileName = Annotated[
    str | None, typer.Option("--profile", help="Which stored platform to speak to.", envvar="UNDERSONG_PROFILE")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
FederationName = Annotated[
    str | None, typer.Option("--federation", "-f", help="Federation, by name or id; may be left out when there is one.")
]


def connect(profile: str | None) -> Client:
    """Return a client for the named profile, else for the one that `undersong.profile` chooses, which is told where in
    doubt.

    ProfileError says how to make one.
    """
    name, found = choose_profile(profile)
    if not profile and found.home and DEFAULT_NAME in read_profiles():
        note = f"local platform {name!r} in {found.home}; where you logged in: --profile {DEFAULT_NAME}"
        complaints.print(note, style="dim", markup=False)
    return Client(load_profile(profile))


def show(
    rows: Sequence[BaseModel], columns: Mapping[str, Callable[[Any], object]], *, as_json: bool, empty: str
) -> None:
    """Print rows as a table, or as a JSON list; `empty` teaches the next command when there is none."""
    if as_json:
        print_json([row.model_dump(mode="json") for row in rows])
        return
    if not rows:
        console.print(empty, style="dim")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in columns:
        table.add_column(title, overflow="fold", no_wrap=title == "id")  # an id is copied whole
    for row in rows:
        table.add_row(*(text(read(row)) for read in columns.values()))
    console.print(table)


def show_one(row: BaseModel, *, as_json: bool) -> None:
    """Print one thing, field by field, or as JSON."""
    document = row.model_dump(mode="json")
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        console.print(f"[bold]{key}[/]", text(value), markup=True)


def print_json(document: object) -> None:
    """Print JSON as it is: no colour, no wrapping."""
    typer.echo(shown_json(document))


def text(value: object) -> str:
    """Return one cell: times relative to now, nothing as a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, datetime):
        return ago(value)
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def ago(moment: datetime) -> str:
    """Return how long ago, in one unit."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def find_site(client: Client, name: str) -> Site:
    """Return the site with this id or name."""
    return one_named(client.sites(), name, "site", "undersong site list")


def find_model(client: Client, name: str) -> Model:
    """Return the model with this id or name."""
    return one_named(client.models(), name, "model", "undersong model list")


def require_success(job: Job) -> None:
    """Raise UndersongError unless the job succeeded, after one line for each distinct cause at the sites."""
    if job.state == "succeeded":
        return
    show_causes(job, complaints)
    remedy = f"undersong job resume {job.id}" if job.stalled else f"undersong job show {job.id}"
    why = job.explanation or job.reason or "no reason given"
    raise UndersongError(f"job {job.id} is {job.state}: {why}", remedy=remedy)


def waits(job: Job) -> str | None:
    """Return what a job waits for, since when, and why each absent site cannot take part; None where it does not."""
    if job.waiting_since is None or job.finished:
        return None
    asked = [site.site_name for site in job.absent if site.consent == "waiting"]
    if asked:
        others = "".join(f"; {site.site_name}: {site.reason}" for site in job.absent if site.site_name not in asked)
        return f"for consent of {', '.join(asked)}, since {ago(job.waiting_since)}{others}"
    needed = (job.spec.get("cohort") or {}).get("min")
    enough = ("enough sites" if needed is None else f"{needed} sites") + " that can take part"
    if (job.spec.get("strategy") or {}).get("name") == "fedbuff":
        enough = "changes of enough sites, which train at their own pace"
    why = "".join(f"; {site.site_name}: {site.reason}" for site in job.absent)
    return f"for {enough}, since {ago(job.waiting_since)}{why}"


def show_causes(job: Job, to: Console) -> None:
    """Print what the sites said in the job's last failed attempt: one line for each distinct cause."""
    for cause in job.causes:
        where = "1 site" if cause.sites == 1 else f"{cause.sites} sites"
        to.print(f"  {where}: {cause.code}: {cause.sentence}", markup=False)


def show_excluded(job: Job, to: Console) -> None:
    """Print the sites that take part in no later round of the job, and why: one line for each."""
    for site in job.excluded:
        name = site.site_name or site.site_id
        to.print(f"  excluded: {name}: {site.code}: {site.message or 'no detail was given'}", markup=False)


def quiet_logs() -> None:
    """Keep log lines of the agent's code, which looks at the data, out of what is printed."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # the one of the moment: tests exchange it
    )


def complain(error: UndersongError) -> None:
    """Print one line for the failure, and one for every fault that the service reported."""
    complaints.print(f"[bold red]error:[/] {escaped(error.message)}", markup=True)
    if isinstance(error, ApiError | RowsError):
        for path, message in _together(error.errors):
            complaints.print(f"  {path or '/'}: {message}", markup=False)
    for note in getattr(error, "__notes__", []):
        complaints.print(f"  {note}", markup=False)
    if error.remedy:
        complaints.print(f"[dim]try:[/] {escaped(error.remedy)}", markup=True)


def _together(errors: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Return faults, of those that several jobs of a sweep share the first with the number of the others."""
    jobs: dict[tuple[str, str], list[str]] = {}
    for path, message in errors:
        _, changes, rest = path.rpartition("/changes/")
        place, _, inner = rest.partition("/")
        jobs.setdefault((inner, message) if changes and place.isdigit() else (path, message), []).append(path)
    for (_, message), paths in jobs.items():
        yield paths[0] + (f" and in {len(paths) - 1} more jobs" if len(paths) > 1 else ""), message


def escaped(line: str) -> str:
    """Text that the console prints as it is, where it takes markup."""
    return line.replace("[", r"\[")


def quoted(word: object) -> str:
    """Return a path or name as a shell takes it, for commands that a person copies."""
    return shlex.quote(str(word))


def next_step(line: str) -> None:
    """Tell the command that comes next, in one line however narrow the terminal is."""
    console.print(f"next: {line}", markup=False, soft_wrap=True)
