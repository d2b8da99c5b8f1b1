"""What a federation's histogram of scores tells beside the AUC: precision and recall, decisions, calibration.

All from the sums of `undersong.shared.learning.score_bins`, float64[2, 3, BINS]: for positives and negatives the rows,
places and squared places of each bin. At the edge between two bins counts are exact, so thresholds are edges.

Average precision is that of scikit-learn: the mean, over positives, of the precision among all rows that score as high
or higher. Of rows within one bin the order is estimated from places, and `error` bounds what any order could make of
it. The expected calibration error has ten bins of equal width (Naeini et al., AAAI 2015; Guo et al., ICML 2017).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.shared.learning import score_bins
from undersong.shared.learning.score_bins import BINS, Area

Floats = npt.NDArray[np.float64]
CALIBRATION_BINS: Final = 10
MOST_POINTS: Final = 20
"""Points of a curve of precision and recall."""
_STEPS: Final = 32


@dataclass(frozen=True, slots=True)
class Decisions:
    """Rows by truth and decision, where a score of `threshold` or more is said to be positive."""

    threshold: float
    tp: float
    fp: float
    tn: float
    fn: float

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.tp / max(2 * self.tp + self.fp + self.fn, 1.0)


def average_precision(summed: Floats) -> Area | None:
    """Return the average precision and the most that it can be wrong by; None without a positive or a negative."""
    parts = _parts(summed)
    if min(parts[0, 0].sum(), parts[1, 0].sum()) <= 0:
        return None
    held = np.flatnonzero(parts[0, 0] > 0)
    inside = parts[:, :, held]
    above = np.stack([_from_above(parts[place, 0])[held] - parts[place, 0][held] for place in (0, 1)])
    p, n, tp, fp = inside[0, 0], inside[1, 0], above[0], above[1]
    least = p - (fp + n) * np.log((tp + p + 0.5 + fp + n) / (tp + 0.5 + fp + n))  # precision is concave in positives
    most = p * (tp + p) / (tp + p + fp)
    right, tied = score_bins.within(inside)
    shares = (np.arange(_STEPS)[:, None] + 0.5) / _STEPS
    positives = tp + p * shares + 0.5
    mixed = (positives / (positives + fp + n * np.clip(shares + 0.5 - right, 0, 1))).mean(axis=0) * p
    value = np.clip(np.where(tied, p * (tp + p) / (tp + p + fp + n), mixed), least, most)
    doubt = np.where(tied, 0.0, np.maximum(value - least, most - value))
    return Area(float(value.sum() / p.sum()), float(doubt.sum() / p.sum()))


def decisions_at(summed: Floats, threshold: float) -> Decisions:
    """Return the decisions at the edge between bins that is nearest to a threshold."""
    return _decisions(_parts(summed), int(np.clip(np.rint(score_bins.place_of(np.array([threshold]))[0]), 1, BINS - 1)))


def best_decisions(summed: Floats) -> Decisions | None:
    """Return the decisions with the best F1, at the highest such threshold; None without a positive."""
    parts = _parts(summed)
    tp, fp = _from_above(parts[0, 0]), _from_above(parts[1, 0])
    if tp[0] <= 0:
        return None
    f1 = 2 * tp / (tp + fp + tp[0]).clip(min=1)
    return _decisions(parts, BINS - 1 - int(np.argmax(f1[::-1])))


def calibration_error(summed: Floats) -> float:
    """Return the expected calibration error: the mean distance of what was said from what was, over ten bins."""
    bins = [_told(summed, first, last) for first, last in _tenths()]
    return float(sum(abs(said - true) for _, said, true in bins) / max(sum(rows for rows, _, _ in bins), 1.0))


def calibration(summed: Floats, least: int) -> list[tuple[float, float, int]]:
    """Return mean score, share of positives and rows in up to ten bins; those of fewer than `least` rows are joined."""
    made, start = [], 0
    for _, end in _tenths():
        rows, said, true = _told(summed, start, end)
        if rows >= least and (end == BINS or _told(summed, end, BINS)[0] >= least):
            made.append((round(said / rows, 4), round(true / rows, 4), round(rows)))
            start = end
    rows, said, true = _told(summed, start, BINS)
    return made if rows < least else [*made, (round(said / rows, 4), round(true / rows, 4), round(rows))]


def precision_recall(summed: Floats, least: int) -> list[tuple[float, float, float]]:
    """Return up to 20 points of threshold, recall and precision, with at least `least` rows between two of them."""
    parts = _parts(summed)
    tp, fp = _from_above(parts[0, 0]), _from_above(parts[1, 0])
    rows = tp + fp
    if tp[0] <= 0:
        return []
    made, told = [], 0.0
    step = max(float(least), rows[0] / MOST_POINTS)
    for edge in range(BINS - 1, -1, -1):
        if rows[edge] - told >= step and (edge == 0 or rows[0] - rows[edge] >= least or rows[edge] == rows[0]):
            found = (score_bins.score_at(edge), tp[edge] / tp[0], tp[edge] / rows[edge])
            made.append((round(found[0], 4), round(float(found[1]), 4), round(float(found[2]), 4)))
            told = rows[edge]
    return made


def _parts(summed: Floats) -> Floats:
    return np.asarray(summed, np.float64).reshape(2, 3, BINS)


def _from_above(counts: Floats) -> Floats:
    """Return how many are in each bin or above it."""
    return np.cumsum(counts[::-1])[::-1]


def _decisions(parts: Floats, edge: int) -> Decisions:
    positives, negatives = parts[0, 0], parts[1, 0]
    above = positives[edge:].sum(), negatives[edge:].sum()
    below = negatives[:edge].sum(), positives[:edge].sum()
    return Decisions(score_bins.score_at(edge), *(float(count) for count in (*above, *below)))


def _tenths() -> Iterator[tuple[int, int]]:
    """Yield the first bin of each tenth of the scores, and the bin after its last."""
    inner = np.rint(score_bins.place_of(np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS)).astype(int).tolist()
    yield from zip([0, *inner], [*inner, BINS], strict=True)


def _told(summed: Floats, first: int, last: int) -> tuple[float, float, float]:
    """Return rows, sum of scores and positives of bins first..last - 1."""
    parts = _parts(summed)[:, :, first:last]
    counts = parts[:, 0]
    middle = parts[:, 1] / np.maximum(counts, 1.0)
    said = (counts * score_bins.scores_of(np.arange(first, last) + middle)).sum()
    return float(counts.sum()), float(said), float(counts[0].sum())
