"""The fault matrix as a page for operators."""

import re
from collections.abc import Sequence
from typing import Final

from tests.simulation.cases import Case
from tests.simulation.points import POINTS
from tests.simulation.trial import Outcome

_HEAD: Final = """# Fault matrix

Made by `make faults`: do not edit. Each case starts a job of two rounds on a platform of real processes, does one thing
to it, and compares the books of all parties when everything has ended. Each site adds its own unit vector, so that the
published sum says how often each site is in it.

**A failure** is: a round or a job that does not end; a round that is aborted without a reason; an update that is
counted twice, or acknowledged and lost; a sum of other sites than the receipts and the log's record name; two rosters
signed for one attempt; a body, a blob, a hint or a task that is left over when all is over; a next round that does not
begin. **No failure** is: a round that is aborted with a reason and tried again; a site that is left out of a round
because it was away; time. **Not deterministic**: which sites a round has when one of them was cut off, how many
attempts a round takes, at what moment a random kill finds a process.

Leases are 8 s (sites) and 2 s (the aggregator's workers) here, and rounds have 40 s, so that a step before the upload
has ten; a deployment's times grow with its own settings. Seconds are from the submission of the job to its end, for
both rounds, with everything on one machine.
"""


_SUMMARY: Final = """**{} faults tried; {} rounds published, {} aborted with a reason and tried again; {} failures; \
{} blobs left that nobody needs.**"""


def kind_of(case: Case) -> str:
    """The column: a fault without its count."""
    return re.sub(r", time \d+$", "", case.fault)


def faults_of(outcomes: Sequence[Outcome]) -> list[str]:
    """All kinds of fault, in the order in which they were tried."""
    return list(dict.fromkeys(kind_of(outcome.case) for outcome in outcomes))


def document(outcomes: Sequence[Outcome], left: Sequence[str], *, untried: int) -> str:
    """The page."""
    tried = [outcome for outcome in outcomes if outcome.tried]
    published = sum(outcome.published for outcome in tried)
    aborted = sum(len(outcome.aborted) for outcome in tried)
    failed = sum(bool(outcome.faults) for outcome in tried)
    lines = [
        _HEAD,
        _SUMMARY.format(len(tried), published, aborted, failed, len(left)),
        "",
    ]
    if untried:
        lines += [f"{untried} cases were left out of this run for want of time.", ""]
    lines += _steps(outcomes)
    lines += _others([o for o in outcomes if not o.case.point])
    lines += _legend()
    return "\n".join(lines) + "\n"


def _steps(outcomes: Sequence[Outcome]) -> list[str]:
    at_points = [o for o in outcomes if o.case.point]
    columns = faults_of(at_points)
    lines = ["## At each step", "", "| step | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for where in dict.fromkeys(o.case.where for o in at_points):
        mine = [o for o in at_points if o.case.where == where]
        cells = [_cell([o for o in mine if kind_of(o.case) == column]) for column in columns]
        lines.append(f"| `{where}` | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _others(outcomes: Sequence[Outcome]) -> list[str]:
    columns = faults_of(outcomes)
    lines = [
        "## Wires and processes",
        "",
        "| between | " + " | ".join(columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for where in dict.fromkeys(o.case.where for o in outcomes):
        mine = [o for o in outcomes if o.case.where == where]
        lines.append(
            f"| {where} | " + " | ".join(_cell([o for o in mine if o.case.fault == c]) for c in columns) + " |"
        )
    return [*lines, ""]


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
    lines = ["## Steps", "", "What a crash right after each step leaves, and what mends it.", ""]
    lines += ["| step | process | left | mended by |", "| --- | --- | --- | --- |"]
    lines += [f"| `{n}` | {', '.join(p.processes)} | {p.left} | {p.mended_by} |" for n, p in POINTS.items()]
    return lines
