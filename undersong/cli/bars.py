"""Progress bars of work that this machine does itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from undersong.cli import common

Report = Callable[[float], None]
"""Takes the share that is done, from 0 to 1."""


@contextmanager
def bars() -> Iterator[Callable[[str], Report]]:
    """Yield a function that adds a bar of a title; all are on standard error, and gone at the end."""
    described = TextColumn("{task.description}")
    columns = (SpinnerColumn(), described, BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    hidden = not common.complaints.is_terminal
    with Progress(*columns, console=common.complaints, disable=hidden, transient=True) as shown:

        def bar(title: str) -> Report:
            task = shown.add_task(title, total=1.0)
            return lambda value: shown.update(task, completed=value)

        yield bar
