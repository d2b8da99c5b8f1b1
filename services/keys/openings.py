"""Which attempts at rounds of jobs were opened, in a file beside the database that is never restored with it.

A database that was restored from a copy has forgotten what it opened since. Another attempt at such a round would give
a second sum of nearly the same updates, which differs from the first by single sites; so these lines outlive the
database. One short line for each round, only ever added.
"""

import asyncio
from pathlib import Path
from typing import NamedTuple

from undersong.shared.identity.highwater import DurableLines
from undersong.shared.ids import RoundId


class RecordedOpening(NamedTuple):
    """The one attempt at a round of a job that was opened; or that got a row of the job's noise."""

    job_id: str
    kind: str
    number: int
    round_id: RoundId


class Openings:
    """The file."""

    def __init__(self, path: Path) -> None:
        self._lines = DurableLines(path)
        self._last: tuple[RecordedOpening, ...] = ()

    async def add(self, *openings: RecordedOpening) -> None:
        """Note what one attempt opens, durably; again changes nothing."""
        if openings != self._last:
            for opening in openings:
                await asyncio.to_thread(self._lines.add, *opening)
            self._last = openings

    def read(self) -> list[RecordedOpening]:
        """Return all openings. A line that a crash cut off was never answered: it is left out or names no attempt."""
        whole = [line for line in self._lines.read() if len(line) == len(RecordedOpening._fields)]
        return [
            RecordedOpening(job_id, kind, int(number), RoundId(round_id)) for job_id, kind, number, round_id in whole
        ]
