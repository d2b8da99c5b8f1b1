"""Small drawings as numbers: where the template puts SVG rectangles and marks. Pure."""

from dataclasses import dataclass
from datetime import datetime

from undersong.services.coordinator.dashboard.views import RoundItem
from undersong.services.coordinator.dashboard.wording import seconds

WIDTH = 1000.0  # units of the SVG view box: a bar is scaled to its box by the browser


@dataclass(frozen=True, slots=True)
class Piece:
    """One rectangle of a stacked bar, in view-box units."""

    phase: str
    x: float
    width: float
    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One round's row in the timeline."""

    round: RoundItem
    pieces: tuple[Piece, ...]
    total: str
    slowest: str | None


@dataclass(frozen=True, slots=True)
class Gauge:
    """How far a round's quorum is, in view-box units: filled up to `got`, with a mark at the minimum."""

    got: int
    min_cohort: int
    target: int
    filled: float
    min_at: float
    reached: bool


def timeline(rounds: tuple[RoundItem, ...], now: datetime) -> tuple[Bar, ...]:
    """Return one bar a round, all on one scale: the longest round fills the width."""
    longest = max((round_.seconds(now) for round_ in rounds), default=0.0) or 1.0
    return tuple(_bar(round_, now, WIDTH / longest) for round_ in rounds)


def _bar(round_: RoundItem, now: datetime, per_second: float) -> Bar:
    spans = round_.spans(now)
    pieces = tuple(
        Piece(
            span.phase,
            round(span.start_s * per_second, 1),
            round(max(span.length_s * per_second, 1.5), 1),
            f"{span.phase} {seconds(span.length_s)}",
        )
        for span in spans
    )
    slowest = max(spans, key=lambda span: span.length_s).phase if spans else None
    return Bar(round_, pieces, seconds(round_.seconds(now)), slowest)


def gauge(round_: RoundItem) -> Gauge:
    """Return the quorum of one round."""
    whole = max(round_.target, round_.got, 1)
    return Gauge(
        got=round_.got,
        min_cohort=round_.min_cohort,
        target=round_.target,
        filled=round(WIDTH * round_.got / whole, 1),
        min_at=round(WIDTH * min(round_.min_cohort, whole) / whole, 1),
        reached=round_.got >= round_.min_cohort,
    )
