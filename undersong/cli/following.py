"""A job's progress while a command waits: a bar on a terminal, a line for each round that ends in a pipe."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from undersong.cli import common
from undersong.client import Client
from undersong.client.types import Event, Job
from undersong.client.wire import PATIENCE_S
from undersong.errors import UnreachableError
from undersong.progress import JobProgress, RoundProgress


def follow_job(
    client: Client,
    job: Job,
    *,
    total: int | None,
    done: Callable[[JobProgress], int],
    note: Callable[[JobProgress], str],
    quiet: bool,
    transient: bool = False,
) -> JobProgress:
    """Show a job's progress until it ends; what was seen of it.

    `total`, `done` and `note` describe the bar. Nothing is shown when `quiet`. `transient` progress leaves standard
    output to the command's answer: the bar goes at the end, and lines are written to standard error.
    """
    seen = JobProgress()
    if quiet or not sys.stdout.isatty():
        lines = _Lines(common.complaints if transient else common.console, quiet=quiet)
        with watching(job.id):
            for event in client.follow(job.id):
                lines.show(event, _take(client, job.id, seen, event))
                if not quiet and (told := _told(client, job.id, event)) is not None:
                    lines.say(told)
        return seen
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rounds"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    hidden = not sys.stderr.isatty()
    shown = Progress(*columns, console=common.complaints, disable=hidden, transient=transient)
    with watching(job.id), shown as progress:
        bar = progress.add_task(job.name, total=total, note="")
        for event in client.follow(job.id):
            _take(client, job.id, seen, event)
            if (told := _told(client, job.id, event)) is not None:
                progress.console.print(told, markup=False, soft_wrap=True)
            progress.update(bar, completed=done(seen), note=note(seen))
    return seen


def _take(client: Client, job_id: str, seen: JobProgress, event: Event) -> list[RoundProgress]:
    """Take in an event; the rounds that it changed."""
    changed = seen.take(event)
    if event.type == "job.polled":
        with suppress(UnreachableError):  # the next poll tells it
            return seen.take_rounds(client.rounds(job_id))
    return [] if changed is None else [changed]


@contextmanager
def watching(job_id: str) -> Iterator[None]:
    """Say how to go on, where the platform has not answered for as long as a job is followed without it."""
    try:
        yield
    except UnreachableError as error:
        raise UnreachableError(
            f"{error.message}; the job does not end by that", remedy=f"later: undersong job watch {job_id}"
        ) from error


def _told(client: Client, job_id: str, event: Event) -> str | None:
    """Return a line where the platform does not answer, or on what the job waits for if it began to and still does."""
    if event.type == "job.unheard":
        return f"the platform does not answer; the job goes on, and is watched again within {PATIENCE_S / 60:.0f} min"
    if event.type != "job.waiting":
        return None
    waits = common.waits(client.job(job_id))
    return None if waits is None else f"job waits {waits}"


class _Lines:
    """What happens, a line each, for files and other programs."""

    def __init__(self, to: Console, *, quiet: bool) -> None:
        self._to = to
        self._quiet, self._ended, self._state = quiet, set[str](), ""

    def show(self, event: Event, changed: list[RoundProgress]) -> None:
        """Print what is new and worth a line: a round that ended, a job that changed."""
        if self._quiet:
            return
        for round_ in changed:
            if round_.ended and round_.id not in self._ended:
                self._ended.add(round_.id)
                self.say(f"{round_.title:<18} {round_.got} of {round_.cohort} sites  {_outcome(round_)}")
        state = " ".join(filter(None, (str(event.data.get("state") or ""), str(event.data.get("reason") or ""))))
        if event.type.startswith("job.") and state and state != self._state:
            self._state = state
            self.say(f"job {state}")

    def say(self, line: str) -> None:
        """Print one line with the time of day."""
        self._to.print(f"{datetime.now().astimezone():%H:%M:%S}  {line.rstrip()}", markup=False, soft_wrap=True)


def _outcome(round_: RoundProgress) -> str:
    return round_.note if round_.phase == "published" else f"{round_.phase}: {round_.reason or 'no reason given'}"
