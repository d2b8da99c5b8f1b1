"""A job's rounds as a Gantt chart: who waited for whom, and why. Pure; places are percent of the chart's width."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Final

from undersong.services.coordinator.dashboard.views import RoundItem, TaskMove
from undersong.services.coordinator.dashboard.wording import seconds
from undersong.services.coordinator.domain.causes import fault_sentence

LABEL_ROOM: Final = 21.0  # percent, so that the names of two rounds do not run into each other on a phone
LONGEST_GAP: Final = 0.04  # of the rounds' time: a pause of days between two rounds must not hide them
LEAST_ROUND: Final = 0.02


@dataclass(frozen=True, slots=True)
class GanttBar:
    """One bar of a lane; a fault's bar ends in a mark."""

    kind: str
    x: float
    width: float
    text: str

    @property
    def end(self) -> float:
        """Where it ends."""
        return round(self.x + self.width, 2)


@dataclass(frozen=True, slots=True)
class GanttLane:
    """A site's lane."""

    name: str
    bars: tuple[GanttBar, ...]


@dataclass(frozen=True, slots=True)
class GanttRound:
    """A round's place, and what it waited for last; `label` is whether there is room for its name."""

    round: RoundItem
    x: float
    width: float
    label: bool
    phases: tuple[GanttBar, ...]
    deadline_x: float | None
    waited: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Gantt:
    """The whole chart."""

    rounds: tuple[GanttRound, ...]
    lanes: tuple[GanttLane, ...]
    kinds: frozenset[str]


@dataclass(frozen=True, slots=True)
class GanttAxis:
    """Time to place: each round has a width by its length, and pauses between rounds are cut short."""

    moments: tuple[datetime, ...]
    places: tuple[float, ...]

    @classmethod
    def of(cls, rounds: Sequence[RoundItem], now: datetime) -> "GanttAxis":
        """Return the axis of rounds in the order of their beginning."""
        moments: list[datetime] = []
        weights: list[float] = []
        lengths = [each.seconds(now) for each in rounds]
        whole = sum(lengths) or 1.0
        for each, length in zip(rounds, lengths, strict=True):
            begins = max(each.created_at, moments[-1]) if moments else each.created_at
            if moments:
                weights.append(min((begins - moments[-1]).total_seconds(), LONGEST_GAP * whole))
            moments += [begins, max(begins, each.ended_at or now)]
            weights.append(max(length, LEAST_ROUND * whole))
        total = sum(weights) or 1.0
        places, x = [0.0], 0.0
        for weight in weights:
            x += 100 * weight / total
            places.append(x)
        return cls(tuple(moments), tuple(places))

    def at(self, moment: datetime) -> float:
        """Return a moment's place."""
        after = bisect_right(self.moments, moment)
        if after == 0:
            return 0.0
        if after == len(self.moments):
            return 100.0
        begins, ends = self.moments[after - 1], self.moments[after]
        share = (moment - begins).total_seconds() / ((ends - begins).total_seconds() or 1.0)
        return self.places[after - 1] + share * (self.places[after] - self.places[after - 1])

    def bar(self, kind: str, begins: datetime, ends: datetime, text: str) -> GanttBar:
        """Return the bar between two moments, wide enough to be seen."""
        x = min(self.at(begins), 99.7)
        return GanttBar(kind, round(x, 2), round(max(self.at(ends) - x, 0.3), 2), text)


@dataclass(slots=True)
class _SiteInRound:
    """One site's part in one round: its bars, and when it had answered."""

    name: str
    bars: list[GanttBar] = field(default_factory=list)
    answered: datetime | None = None
    attempts: int = 0


def gantt(rounds: Sequence[RoundItem], moves: Sequence[TaskMove], names: Mapping[str, str], now: datetime) -> Gantt:
    """Return the chart of rounds, oldest first, with the moves of their tasks in order."""
    axis = GanttAxis.of(rounds, now)
    of_task: defaultdict[tuple[str, str], list[TaskMove]] = defaultdict(list)
    for move in moves:
        of_task[move.round_id, move.site_id].append(move)
    lanes: dict[str, list[GanttBar]] = {}
    drawn: list[GanttRound] = []
    labelled = -LABEL_ROOM
    for each in rounds:
        parts = [
            _part(each, names.get(site, site), of_task.get((each.id, site), ()), axis, now) for site in each.cohort
        ]
        for part in parts:
            lanes.setdefault(part.name, []).extend(part.bars)
        x, end = axis.at(each.created_at), axis.at(each.ended_at or now)
        label = x - labelled >= LABEL_ROOM
        labelled = x if label else labelled
        drawn.append(
            GanttRound(
                each, round(x, 2), round(end - x, 2), label, _phases(each, axis, now),
                _deadline(each, axis, now), _waited(each, parts), max((part.attempts for part in parts), default=0),
            )
        )  # fmt: skip
    shown = tuple(GanttLane(name, tuple(bars)) for name, bars in sorted(lanes.items()))
    return Gantt(tuple(drawn), shown, frozenset(bar.kind for lane in shown for bar in lane.bars))


def _part(each: RoundItem, name: str, moves: Sequence[TaskMove], axis: GanttAxis, now: datetime) -> _SiteInRound:
    part = _SiteInRound(name)
    opened = next((moment for phase, moment in each.phase_times if phase == "collect"), None)
    if opened is None:
        return part
    title = f"{name}, {each.kind} {each.number}: "
    begins, state = opened, "open"
    for move in moves:
        bar = _bar(state, begins, move, axis, title)
        part.bars += [bar] if bar is not None else []
        part.attempts = max(part.attempts, move.attempt)
        part.answered = move.at if move.state == "done" else None
        begins, state = move.at, move.state
    ends = each.ended_at or now
    if state == "done":
        summed = next((moment for phase, moment in each.phase_times if phase == "sum"), ends)
        if summed > begins:
            waits = f"{title}done; waits for other sites for {_length(begins, summed)}"
            part.bars.append(axis.bar("rest", begins, summed, waits))
    elif state in {"open", "leased"} and not each.open:
        part.bars.append(axis.bar("fault", begins, ends, f"{title}no answer before the round ended"))
    elif state in {"open", "leased"}:
        doing = "works" if state == "leased" else "has not fetched its task"
        part.bars.append(
            axis.bar(
                "work" if state == "leased" else "wait", begins, ends, f"{title}{doing} for {_length(begins, ends)}"
            )
        )
    return part


def _bar(state: str, begins: datetime, move: TaskMove, axis: GanttAxis, title: str) -> GanttBar | None:
    """Return the bar that a move ends; None for a state that leaves no bar."""
    took = _length(begins, move.at)
    if state == "open" and move.state == "leased":
        return axis.bar("wait", begins, move.at, f"{title}fetched its task after {took}")
    if move.state == "done":
        return axis.bar("work", begins, move.at, f"{title}attempt {move.attempt} took {took}")
    if state in {"open", "leased"} and move.state != "leased":
        why = fault_sentence(move.code or "", move.message)
        told = f"{title}attempt {move.attempt} ended after {took}: {why}" if state == "leased" else f"{title}{why}"
        again = "; it is tried again" if move.state == "open" else ""
        return axis.bar("fault", begins, move.at, f"{told} ({move.code or move.state}){again}")
    return None


def _phases(each: RoundItem, axis: GanttAxis, now: datetime) -> tuple[GanttBar, ...]:
    """Return a bar for each phase, that of collecting cut where the engine's steps closed."""
    bars: list[GanttBar] = []
    for (phase, begins), (_, ends) in pairwise([*each.phase_times, ("end", each.ended_at or now)]):
        title, last = f"{each.kind} {each.number}: {phase}", max(begins, ends)
        for step in each.steps if phase == "collect" else ():
            until = min(max(begins, step.closed_at), last)  # by the aggregator's clock
            told = f"{title}, step {step.step}: {step.sites} sites, {_length(begins, until)}"
            bars.append(axis.bar(phase, begins, until, told))
            begins = until
        if begins < last or phase != "collect" or not each.steps:
            bars.append(axis.bar(phase, begins, last, f"{title} {_length(begins, last)}"))
    return tuple(bars)


def _deadline(each: RoundItem, axis: GanttAxis, now: datetime) -> float | None:
    """Return where the deadline passed while the round was open; None where it did not."""
    if each.deadline is None or not each.created_at <= each.deadline <= (each.ended_at or now):
        return None
    return round(axis.at(each.deadline), 2)


def _waited(each: RoundItem, parts: Sequence[_SiteInRound]) -> str:
    """Return for whom the round waited last."""
    missing = [part.name for part in parts if part.answered is None]
    if each.kind == "initialise" or not parts:
        return "–"
    if missing:
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        return f"{named}: no answer" + (" yet" if each.open else "")
    answers = sorted((part.answered, part.name) for part in parts if part.answered is not None)
    if len(answers) < 2:
        return answers[0][1]
    return f"{answers[-1][1]}: {_length(answers[-2][0], answers[-1][0])} after the others"


def _length(begins: datetime, ends: datetime) -> str:
    return seconds(max(0.0, (ends - begins).total_seconds()))
