"""Plots of curves: an SVG file without any library, and a PNG file by Pillow. Both are drawn from the same shapes."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final, Literal

WIDTH: Final = 720
HEIGHT: Final = 320
SCALE: Final = 2
"""Pixels of a PNG file for each unit."""
COLOURS: Final = ("#1f5fa8", "#c0504d", "#4f8f3a", "#8064a2", "#d07f1f", "#3a9aa8", "#7f7f7f", "#000000")
_LEFT: Final = 64
_BOTTOM: Final = 44
_TOP: Final = 36
_RIGHT: Final = 20
_GRID: Final = 4
_TEXT: Final = 12
_LARGEST: Final = 1e300
_ANCHORS: Final = {"start": "ls", "middle": "ms", "end": "rs"}

Points = Sequence[tuple[float, float]]
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True)
class Text:
    """A text whose start, middle or end is at a place."""

    x: float
    y: float
    words: str
    anchor: Anchor
    colour: str = "#000"


@dataclass(frozen=True, slots=True)
class Line:
    """Joined points; of one point, a dot."""

    points: Points
    colour: str
    width: int = 2


@dataclass(frozen=True, slots=True)
class Plot:
    """Curves by their names, points in ascending order of their first coordinate; `across` and `up` name the axes."""

    curves: Mapping[str, Points]
    title: str
    across: str
    up: str


def svg(plot: Plot) -> bytes:
    """Return the plot as an SVG file; without points it says so."""
    body = "".join(map(_element, _shapes(plot)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="{_TEXT}" role="img"><title>{escape(plot.title)}</title>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>{body}</svg>\n'
    ).encode()


def png(plot: Plot) -> bytes | None:
    """Return the plot as a PNG file; None where Pillow is not installed."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        return None
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "#fff")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_TEXT * SCALE)
    for shape in _shapes(plot):
        _paint(draw, font, shape)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _paint(draw: Any, font: Any, shape: Text | Line) -> None:
    if isinstance(shape, Text):
        place = (shape.x * SCALE, shape.y * SCALE)
        draw.text(place, shape.words, fill=shape.colour, font=font, anchor=_ANCHORS[shape.anchor])
    elif len(shape.points) == 1:
        draw.circle([each * SCALE for each in shape.points[0]], 4 * SCALE, fill=shape.colour)
    else:
        points = [(x * SCALE, y * SCALE) for x, y in shape.points]
        draw.line(points, fill=shape.colour, width=shape.width * SCALE, joint="curve")


def _element(shape: Text | Line) -> str:
    if isinstance(shape, Text):
        place = f'x="{shape.x}" y="{shape.y}" text-anchor="{shape.anchor}" fill="{shape.colour}"'
        return f"<text {place}>{escape(shape.words)}</text>"
    if len(shape.points) == 1:
        (x, y), *_ = shape.points
        return f'<circle cx="{x}" cy="{y}" r="4" fill="{shape.colour}"/>'
    line = " ".join(f"{x},{y}" for x, y in shape.points)
    return f'<polyline points="{line}" fill="none" stroke="{shape.colour}" stroke-width="{shape.width}"/>'


def _shapes(plot: Plot) -> Iterator[Text | Line]:
    shown = {name: [point for point in points if _fits(point)] for name, points in plot.curves.items()}
    drawn = {name: points for name, points in shown.items() if points}
    yield Text(_LEFT, 20, plot.title, "start")
    if not drawn:
        yield Text(WIDTH / 2, HEIGHT / 2, "nothing was evaluated", "middle")
        return
    everything = [point for points in drawn.values() for point in points]
    (first, last), (low, high) = (_span([point[axis] for point in everything]) for axis in (0, 1))

    def x_of(value: float) -> float:
        return round(_LEFT + (value - first) / (last - first) * (WIDTH - _LEFT - _RIGHT), 1)

    def y_of(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _BOTTOM - _TOP), 1)

    for step in range(_GRID + 1):
        level, place = low + (high - low) * step / _GRID, first + (last - first) * step / _GRID
        yield Line([(_LEFT, y_of(level)), (WIDTH - _RIGHT, y_of(level))], "#dddddd", 1)
        yield Text(_LEFT - 8, y_of(level) + 4, f"{level:.4g}", "end")
        yield Text(x_of(place), HEIGHT - _BOTTOM + 18, f"{place:.4g}", "middle")
    for number, (name, points) in enumerate(drawn.items()):
        colour = COLOURS[number % len(COLOURS)]
        yield Line([(x_of(x), y_of(y)) for x, y in points], colour)
        if len(drawn) > 1:
            yield Text(WIDTH - _RIGHT - 8, HEIGHT - _BOTTOM - 8 - 15 * (len(drawn) - 1 - number), name, "end", colour)
    yield Text(WIDTH / 2, HEIGHT - 8, plot.across, "middle")
    yield Text(WIDTH - _RIGHT, 20, plot.up, "end")


def _fits(point: tuple[float, float]) -> bool:
    return all(abs(each) < _LARGEST for each in point)  # which a value that is no number is not


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
