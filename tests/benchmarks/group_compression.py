"""Group `compression`: the bytes of an update against the accuracy of the model, one setting of `update` after another.

Simulated jobs with the quantised path: scikit-learn's 1,797 digits everywhere, and MNIST where its file is. Writes the
plot beside the figures: `build/bench/compression.svg`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
from sklearn.datasets import load_digits

from tests.benchmarks.figures import Figure
from tests.benchmarks.mnist import FILE, RECIPE, mnist
from undersong.recipes.protocol import Column, Dataset
from undersong.shared.secagg.quantise import TAIL_LENGTH
from undersong.simulate import simulate

PLOT: Final = Path(__file__).parents[2] / "build" / "bench" / "compression.svg"
COLOURS: Final = {"words": "#777777", "rotated": "#1f5fa8", "unbiased": "#b35c00", "feedback": "#2a7d3f"}
SERIES: Final = {
    "words": "plain words of 16, 24, 32 bits",
    "rotated": "16 bits, rotated",
    "unbiased": "rotated, a share of the parameters",
    "feedback": "the same with error feedback",
}
MNIST_ROWS: Final = 12_000  # 600 for each of 20 clients
SHARES: Final = (0.5, 0.2, 0.1, 0.05, 0.02)


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to send updates: its series, its name and its part of the job's `update`."""

    series: str
    name: str
    update: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Point:
    """What a setting cost each site in each round, and the accuracy of the last model."""

    setting: Setting
    size: float
    accuracy: float


def settings() -> Iterator[Setting]:
    """Yield all that are measured."""
    for bits in (32, 24, 16):
        yield Setting("words", f"bits{bits}", {"modulus_bits": bits})
    rotated = {"modulus_bits": 16, "rotation": True}
    yield Setting("rotated", "rotated16", rotated)
    for share in SHARES:
        name = f"keep{round(share * 100):02d}"
        yield Setting("unbiased", name, {**rotated, "keep": share})
        yield Setting("feedback", f"{name}_feedback", {**rotated, "keep": share, "error_feedback": True})


def digits() -> Dataset:
    """Return 1,797 images of 8 by 8 pixels, 0..1; every fifth is for the test."""
    found = load_digits()
    images = (found.images[:, None] / 16).astype(np.float32)
    columns = (Column(name="pixels", type="image", shape=(1, 8, 8), dtype="uint8"),)
    test = np.arange(len(images)) % 5 == 0
    labels = found.target.astype(np.float64)
    return Dataset("digits", columns, images, labels, np.flatnonzero(~test), np.flatnonzero(test), "digit")


def job(dataset: str, hidden: Sequence[int], rounds: int, update: dict[str, Any]) -> dict[str, Any]:
    """Return a job of recipe `two-layer` on one of the two."""
    params = {"hidden": list(hidden), "inputs": 64 if dataset == "digits" else 784}
    return {
        "name": dataset,
        "model": {"name": dataset},
        "recipe": {"name": "two-layer", "params": {**params, "learning_rate": 0.1, "batch_size": 10}},
        "data": {"dataset": dataset, "label": "digit"},
        "rounds": rounds,
        "strategy": {"weighting": "equal"},
        "evaluation": {"every": rounds},
        "update": {"clip_norm": 10.0, **update},
    }


def points(data: Dataset, hidden: Sequence[int], rounds: int, clients: int) -> Iterator[Point]:
    """Yield what each setting costs and reaches on these rows."""
    for setting in settings():
        document = job(data.name, hidden, rounds, setting.update)
        run = simulate(document, data, clients=clients, seed=1, workers=2, recipes=[RECIPE])
        trained = next(each for each in run.rounds if each.kind == "train" and each.result)
        length = int((trained.result or {})["vector_length"])
        words = -(-length * setting.update.get("keep", 1) // 1) + TAIL_LENGTH
        size = words * setting.update["modulus_bits"] / 8
        yield Point(setting, size, float(run.metrics["accuracy"]))


def measure() -> list[Figure]:
    """The group's figures; those of MNIST only where it is."""
    found = {"digits": list(points(digits(), (64,), 40, 10))}
    if FILE.exists():
        whole = mnist()
        found["mnist"] = list(points(replace(whole, train=whole.train[:MNIST_ROWS]), (200, 200), 20, 20))
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    PLOT.write_text(picture(found))
    return [figure for name, made in found.items() for figure in figures(name, made)]


def figures(name: str, made: Sequence[Point]) -> Iterator[Figure]:
    """Yield a figure for each setting, those that should be as good held to what words of 32 bits reach."""
    best = next(point.accuracy for point in made if point.setting.name == "bits32")
    for point in made:
        target = best - 0.01 if point.setting.name in ("rotated16", "keep50_feedback") else None
        note = f"{point.size:,.0f} bytes a site and round"
        yield Figure(f"compression.{name}.{point.setting.name}", point.accuracy, "accuracy", target, "at least", note)


def picture(found: dict[str, list[Point]]) -> str:
    """Return the plot as SVG: a panel for each data set, bytes across in powers of ten, accuracy up."""
    width, height, left, top, bottom = 470, 330, 58, 34, 44
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width * len(found)} {height + 84}" role="img" '
            'font-family="sans-serif" font-size="12"><title>Bytes of an update against accuracy</title>'
        ),
        f'<rect width="{width * len(found)}" height="{height + 84}" fill="#fff"/>',
    ]
    for panel, (name, made) in enumerate(found.items()):
        start = panel * width + left
        sizes, scores = np.log10([point.size for point in made]), [point.accuracy for point in made]
        low, high, worst, best = float(sizes.min()), float(sizes.max()), min(scores), max(scores)
        across, up = (width - left - 24) / (high - low), (height - top - bottom) / max(best - worst, 1e-9)
        place = _placing(start - low * across, across, top + best * up, up)
        parts.append(f'<text x="{start}" y="18">{escape(name)}: accuracy against bytes a site and round</text>')
        for step in range(5):
            level = worst + (best - worst) * step / 4
            size = 10 ** (low + (high - low) * step / 4)
            x, y = place(size, level)
            parts.append(f'<path d="M{start} {y}H{panel * width + width - 24}" stroke="#ddd"/>')
            parts.append(f'<text x="{start - 6}" y="{y + 4}" text-anchor="end">{level:.3f}</text>')
            parts.append(f'<text x="{x}" y="{height - 20}" text-anchor="middle">{told(size)}</text>')
        for series, colour in COLOURS.items():
            mine = sorted(place(p.size, p.accuracy) for p in made if p.setting.series == series)
            line = " ".join(f"{x},{y}" for x, y in mine)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
            parts += [f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>' for x, y in mine]
    for row, (series, said) in enumerate(SERIES.items()):
        y = height + 6 + 18 * row
        parts.append(f'<circle cx="{left}" cy="{y - 4}" r="4" fill="{COLOURS[series]}"/>')
        parts.append(f'<text x="{left + 12}" y="{y}">{escape(said)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _placing(start: float, across: float, top: float, up: float) -> Callable[[float, float], tuple[float, float]]:
    """Return what gives a point's place in the plot."""

    def place(size: float, accuracy: float) -> tuple[float, float]:
        return round(start + float(np.log10(size)) * across, 1), round(top - accuracy * up, 1)

    return place


def told(size: float) -> str:
    """Return a number of bytes for people."""
    return f"{size / 1000:.3g} kB" if size < 1e6 else f"{size / 1e6:.3g} MB"
