"""Measures the platform: python -m tests.benchmarks [group ...] or --only group.

A group is a module ``group_<name>.py`` here with a function ``measure() -> Sequence[Figure]``. Each group prints a
table and writes ``build/bench/<name>.json``. The exit code is 1 when a target is missed.
"""

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.benchmarks.figures import Figure

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "build" / "bench"


def groups() -> list[str]:
    """The names of all groups."""
    return sorted(path.stem.removeprefix("group_") for path in HERE.glob("group_*.py"))


def machine() -> dict[str, object]:
    """Describe the machine of the measurement."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def run(group: str, console: Console) -> bool:
    """Measure one group; whether every target is met."""
    console.print(f"[bold]{group}[/] …")
    figures: Sequence[Figure] = importlib.import_module(f"tests.benchmarks.group_{group}").measure()
    write(group, figures)
    console.print(table(group, figures))
    return all(figure.holds for figure in figures)


def write(group: str, figures: Sequence[Figure]) -> None:
    """The group's JSON file."""
    document = {
        "group": group,
        "machine": machine(),
        "figures": {
            f.id: {
                "value": f.value,
                "unit": f.unit,
                "target": f.target,
                "sense": f.sense,
                "holds": f.holds,
                "note": f.note,
            }
            for f in figures
        },
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{group}.json").write_text(json.dumps(document, indent=2) + "\n")


def table(group: str, figures: Sequence[Figure]) -> Table:
    """For people."""
    made = Table(title=f"{group} ({OUT.name}/{group}.json)", title_justify="left")
    for name in ("figure", "value", "unit", "target", "", "note"):
        made.add_column(name, justify="right" if name in ("value", "target") else "left")
    for figure in figures:
        target = "" if figure.target is None else f"{'≥' if figure.sense == 'at least' else '≤'} {figure.target:g}"
        holds = "" if figure.target is None else "[green]holds[/]" if figure.holds else "[red]missed[/]"
        made.add_row(figure.id, f"{figure.value:.4g}", figure.unit, target, holds, figure.note)
    return made


def main() -> int:
    """Run the groups that were asked for, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure the platform.")
    parser.add_argument("groups", nargs="*", help=f"of: {', '.join(groups())}")
    parser.add_argument("--only", action="append", default=[], metavar="GROUP")
    arguments = parser.parse_args()
    wanted = [*arguments.groups, *arguments.only] or groups()
    if unknown := sorted(set(wanted) - set(groups())):
        parser.error(f"no such group: {', '.join(unknown)}; there are: {', '.join(groups())}")
    console = Console()
    missed = [group for group in wanted if not run(group, console)]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
