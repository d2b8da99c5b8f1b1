"""Jobs side by side: what differs, and what came of it."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from rich.table import Table

from undersong.cli import common
from undersong.client.types import ComparedJob, JobComparison

MOST_METRICS: Final = 4


def show(found: JobComparison) -> None:
    """Print a table with a column for each job: state, effort, the newest metrics, and the settings that differ."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    for job in found.jobs:
        table.add_column(common.escaped(job.name), overflow="fold")
    for title, read in _FACTS.items():
        table.add_row(title, *(read(job) for job in found.jobs))
    for name in found.metrics[:MOST_METRICS]:
        table.add_row(name, *(_number(job.metrics.get(name)) for job in found.jobs))
    table.add_section()
    for setting in found.settings:
        table.add_row(common.escaped(setting.path), *(common.escaped(_setting(value)) for value in setting.values))
    common.console.print(table)
    if not found.settings and len(found.jobs) > 1:
        common.console.print("no setting differs but the name", style="dim")
    if len(found.metrics) > MOST_METRICS:
        common.console.print(f"further metrics with --csv: {', '.join(found.metrics[MOST_METRICS:])}", style="dim")


def rows(found: JobComparison) -> Iterator[Sequence[object]]:
    """Yield a heading, then a row for each evaluation of each job."""
    yield "job_id", "job", "round", "seconds", "update_bytes", *found.metrics
    for job in found.jobs:
        curve = job.curve
        missing: list[None] = [None] * len(curve.rounds)
        values = [curve.metrics.get(name, missing) for name in found.metrics]
        for line in zip(curve.rounds, curve.seconds, curve.update_bytes or missing, *values, strict=True):
            yield job.id, job.name, *line


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _bytes(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e6:.3g} MB" if count >= 1e6 else f"{count / 1e3:.3g} kB"


def _setting(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_FACTS: Final[dict[str, Callable[[ComparedJob], str]]] = {
    "id": lambda job: job.id,
    "state": lambda job: job.state,
    "trained": lambda job: f"{job.trained} rounds",
    "took": lambda job: f"{job.seconds:.4g} s",
    "sites": lambda job: "–" if job.sites is None else f"{job.sites:.3g} a round",
    "updates": lambda job: _bytes(job.update_bytes),
    "epsilon": lambda job: "exact sums" if job.epsilon is None else f"{job.epsilon:.4g} at delta {job.delta:g}",
}
