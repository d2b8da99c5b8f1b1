"""A plot of a metric over rounds as an SVG file, without any library."""

from collections.abc import Sequence
from html import escape
from typing import Final

WIDTH: Final = 720
HEIGHT: Final = 320
_LEFT: Final = 64
_BOTTOM: Final = 44
_TOP: Final = 36
_RIGHT: Final = 20
_GRID: Final = 4


def curve(points: Sequence[tuple[float, float]], *, title: str, across: str, up: str) -> str:
    """Return the plot of points in ascending order of their first coordinate; without points it says so."""
    body = _drawn(points, across, up) if points else _text(WIDTH / 2, HEIGHT / 2, "nothing was evaluated", "middle")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12" role="img"><title>{escape(title)}</title>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>{_text(_LEFT, 20, title, "start")}{body}</svg>\n'
    )


def _drawn(points: Sequence[tuple[float, float]], across: str, up: str) -> str:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = _span(ys)
    first, last = (xs[0], xs[-1]) if xs[-1] > xs[0] else (xs[0] - 0.5, xs[0] + 0.5)

    def x_of(value: float) -> float:
        return round(_LEFT + (value - first) / (last - first) * (WIDTH - _LEFT - _RIGHT), 1)

    def y_of(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _BOTTOM - _TOP), 1)

    parts = []
    for step in range(_GRID + 1):
        level, place = low + (high - low) * step / _GRID, first + (last - first) * step / _GRID
        y = y_of(level)
        parts.append(f'<path d="M{_LEFT} {y}H{WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{level:.4g}", "end"))
        parts.append(_text(x_of(place), HEIGHT - _BOTTOM + 18, f"{place:.4g}", "middle"))
    line = " ".join(f"{x_of(x)},{y_of(y)}" for x, y in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="2"/>')
    if len(points) == 1:
        parts.append(f'<circle cx="{x_of(xs[0])}" cy="{y_of(ys[0])}" r="4" fill="#1f5fa8"/>')
    parts.append(_text(WIDTH / 2, HEIGHT - 8, across, "middle"))
    parts.append(_text(WIDTH - _RIGHT, 20, up, "end"))
    return "".join(parts)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
