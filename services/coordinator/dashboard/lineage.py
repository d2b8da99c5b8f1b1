"""Which version was made of which, as a drawing: versions from left to right, a row for each job. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from undersong.services.coordinator.peers.registry import VersionEntry

MOST: Final = 40  # versions drawn, the newest
ROW: Final = 48  # pixels between two rows
_EDGE: Final = 3.0  # percent of the width that is left free at each end


@dataclass(frozen=True, slots=True)
class VersionMark:
    """A version at `x` percent and `y` pixels."""

    version: VersionEntry
    x: float
    y: int
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Descent:
    """A line from a parent to the version that was made of it."""

    x1: float
    y1: int
    x2: float
    y2: int


@dataclass(frozen=True, slots=True)
class LineageGraph:
    """The drawing; `left_out` are older versions."""

    marks: tuple[VersionMark, ...]
    lines: tuple[Descent, ...]
    height: int
    left_out: int


def lineage(versions: Sequence[VersionEntry], aliases: Mapping[str, str]) -> LineageGraph:
    """Return the newest versions; those of one job share a row."""
    shown = versions[-MOST:]
    rows = {job: at for at, job in enumerate(dict.fromkeys(str(each.lineage.get("job_id")) for each in shown))}
    step = (100 - 2 * _EDGE) / max(1, len(shown) - 1)
    named: dict[str, list[str]] = {}
    for alias, version_id in sorted(aliases.items()):
        named.setdefault(version_id, []).append(alias)
    marks: dict[str, VersionMark] = {
        each.id: VersionMark(
            each,
            round(_EDGE + at * step, 2),
            28 + ROW * rows[str(each.lineage.get("job_id"))],
            tuple(named.get(each.id, ())),
        )
        for at, each in enumerate(shown)
    }
    lines = [
        Descent(marks[parent].x, marks[parent].y, mark.x, mark.y)
        for mark in marks.values()
        for parent in mark.version.parents
        if parent in marks
    ]
    return LineageGraph(tuple(marks.values()), tuple(lines), 28 + ROW * max(1, len(rows)), len(versions) - len(shown))
