"""The fault matrix as a page for operators."""

import re
from collections.abc import Sequence
from typing import Final

from tests.simulation.cases import Case
from tests.simulation.points import BESIDE, PARTS, POINTS, TWO_SERVERS
from tests.simulation.trial import Outcome

_HEAD: Final = """# Fault matrix

Made by `make faults`: do not edit. Each run adds to what earlier runs tried, and the last outcome of each case
is shown here. Each case starts a job of two rounds on a platform of real processes, does one thing
to it, and compares the databases of all parties when everything has ended. Each site adds its own unit vector, so that
the published sum says how often each site is in it.

**A failure** is: a round or a job that does not end; a round that is aborted without a reason; an update that is
counted twice, or acknowledged and lost; a sum of other sites than the receipts and the log's record name; two rosters
signed for one attempt; a verdict or a set of the helper that changes once it is written down, or a second set for one
round of a job; a body, a blob, a hint or a task that is left over when all is over; a next round that does not
begin. **No failure** is: a round that is aborted with a reason and tried again; a site that is left out of a round
because it was away; time. **Not deterministic**: which sites a round has when one of them was cut off, how many
attempts a round takes, at what moment a random kill finds a process.

Leases are 8 s (sites) and 2 s (the aggregator's workers) here, and rounds have 60 s, so that a step before the upload
has ten; a deployment's times grow with its own settings. Seconds are from the submission of the job to its end, for
both rounds, with everything on one machine.
"""


_SUMMARY: Final = """**{} of {} cases tried; {} rounds published, {} aborted with a reason and tried again; \
{} failures; {} unneeded blobs left.**"""
_PARTS: Final = {
    "Rounds of engine pairwise": lambda case: not case.postgres and case.engine == "pairwise",
    "Rounds of two servers": lambda case: not case.postgres and case.engine == "twoserver",
    "With the databases on PostgreSQL": lambda case: case.postgres,
}


def kind_of(case: Case) -> str:
    """The column: a fault without its count."""
    return re.sub(r", time \d+$", "", case.fault)


def faults_of(outcomes: Sequence[Outcome]) -> list[str]:
    """All kinds of fault, in the order in which they were tried."""
    return list(dict.fromkeys(kind_of(outcome.case) for outcome in outcomes))


def document(outcomes: Sequence[Outcome], left: Sequence[str], cases: Sequence[Case]) -> str:
    """The page: of all `cases`, those with an outcome."""
    tried = [outcome for outcome in outcomes if outcome.tried]
    published = sum(outcome.published for outcome in tried)
    aborted = sum(len(outcome.aborted) for outcome in tried)
    failed = sum(bool(outcome.faults) for outcome in tried)
    lines = [_HEAD, _SUMMARY.format(len(tried), len(cases), published, aborted, failed, len(left)), ""]
    lines += _runs(tried)
    for title, belongs in _PARTS.items():
        mine = [outcome for outcome in outcomes if belongs(outcome.case)]
        if mine:
            lines += [f"## {title}", ""]
            lines += _table("step", [o for o in mine if o.case.point])
            lines += _table("between, or process", [o for o in mine if not o.case.point])
    lines += _missing(outcomes, cases)
    lines += _legend()
    return "\n".join(lines) + "\n"


def _runs(tried: Sequence[Outcome]) -> list[str]:
    """Which code was tried when, by the last outcome of each case."""
    lines = [
        "## Runs",
        "",
        "| commit | databases | from | to | cases | failures |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for key in dict.fromkeys((o.revision, o.case.postgres) for o in sorted(tried, key=lambda o: o.at)):
        mine = [o for o in tried if (o.revision, o.case.postgres) == key]
        first, last = min(o.at for o in mine), max(o.at for o in mine)
        kind, bad = "PostgreSQL" if key[1] else "SQLite", sum(bool(o.faults) for o in mine)
        lines.append(f"| {key[0]} | {kind} | {first[:16]} | {last[:16]} | {len(mine)} | {bad} |")
    return [*lines, ""]


def _table(head: str, outcomes: Sequence[Outcome]) -> list[str]:
    if not outcomes:
        return []
    columns = faults_of(outcomes)
    lines = [f"| {head} | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for row in dict.fromkeys(_row(o.case) for o in outcomes):
        mine = [o for o in outcomes if _row(o.case) == row]
        cells = [_cell([o for o in mine if kind_of(o.case) == column]) for column in columns]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _row(case: Case) -> str:
    where = f"`{case.where}`" if case.point else case.where
    return where + (", two servers" if case.postgres and case.engine == "twoserver" else "")


def _missing(outcomes: Sequence[Outcome], cases: Sequence[Case]) -> list[str]:
    """What says nothing, by name."""
    known = {outcome.case.name for outcome in outcomes}
    lists = {
        "Never tried": [case.name for case in cases if case.name not in known],
        "Not tried, because the step was not come to, or this machine cannot do it": [
            outcome.case.name for outcome in outcomes if not outcome.tried
        ],
    }
    return [
        line for title, names in lists.items() if names for line in (f"## {title}", "", *(f"- {n}" for n in names), "")
    ]


def _cell(outcomes: Sequence[Outcome]) -> str:
    """How often it ended well, how long it took at worst, and what rounds were aborted for."""
    tried = [o for o in outcomes if o.tried]
    if not outcomes:
        return ""
    if not tried:
        return "not reached"
    well = sum(not o.faults for o in tried)
    text = f"{well}/{len(tried)}, {max(o.seconds for o in tried):.0f} s"
    reasons = sorted({reason for o in tried for reason in o.aborted})
    return text + (f" ({', '.join(reasons)})" if reasons else "")


def _legend() -> list[str]:
    lines = ["## Steps", "", "What a crash right after each step leaves, and what recovers from it.", ""]
    lines += ["| step | process | left | recovery |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{n}` | {', '.join(p.processes)} | {p.left} | {p.mended_by} |"
        for n, p in (POINTS | TWO_SERVERS | PARTS | BESIDE).items()
    ]
    return lines
