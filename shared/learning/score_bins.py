"""The area under the ROC curve from sums, for classes of any balance.

A score is a probability p. Its place is asinh(z / 4) of its logit z, within +-40, scaled to 0..`BINS`: bins are narrow
where scores are rare events (1:10,000 is z = -9) as well as around one half. For positives and for negatives each bin
holds the number of rows, the sum of their places within the bin, and the sum of the squared places, on a grid of 2**-12
bins, so that the sums are exact in the encoding of sums (units of 2**-24).

Pairs in different bins are counted exactly. Of the pairs within one bin, the share that is in the right order is that
of two normal distributions with the places' means and variances; equal scores count as half. The error is at most the
share of all pairs that lie in one bin, times what the estimate could be wrong by there: it is reported with the value.
Scores that agree on the grid (about six digits of p / (1 - p)) count as equal, and so do all below 4e-18.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BINS: Final = 2048
LENGTH: Final = 6 * BINS
_BEND: Final = 4.0  # logits: bins are of one width up to about here, and grow beyond
_MOST: Final = 40.0  # logits; float64 probabilities reach 37 above one half
_GRID: Final = 2**12
_SAME: Final = 1e-12  # less than any variance or squared distance of places on the grid that matters


@dataclass(frozen=True, slots=True)
class Area:
    """The AUC, and the most that it can differ from that of the rows."""

    value: float
    error: float


def sums(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> Floats:
    """Return the bins' sums float64[LENGTH] of rows with these truths and scores in 0..1, both [n]."""
    grid = place_of(scores) * _GRID
    bins, places = np.divmod(np.clip(np.rint(grid), 0, BINS * _GRID - 1).astype(np.int64), _GRID)
    made = []
    for rows in (truth, ~truth):
        inside = places[rows] / _GRID
        made += [
            np.bincount(bins[rows], weights=weights, minlength=BINS)
            for weights in (np.ones(inside.size), inside, inside * inside)
        ]
    return np.concatenate(made)


def place_of(scores: npt.NDArray[np.floating]) -> Floats:
    """Return the place of each score, 0..BINS: the whole part is its bin."""
    with np.errstate(divide="ignore"):
        p = np.clip(scores, 0.0, 1.0)
        logits = np.clip(np.log(p) - np.log1p(-p), -_MOST, _MOST)
    placed: Floats = (np.arcsinh(logits / _BEND) / math.asinh(_MOST / _BEND) + 1) / 2 * BINS
    return placed


def scores_of(places: npt.NDArray[np.floating]) -> Floats:
    """Return the score at each place."""
    logits = _BEND * np.sinh((2 * np.asarray(places, np.float64) / BINS - 1) * math.asinh(_MOST / _BEND))
    found: Floats = 1 / (1 + np.exp(-logits))
    return found


def score_at(edge: int) -> float:
    """Return the lowest score of a bin."""
    return float(scores_of(np.array([float(edge)]))[0])


def auc_of(summed: Floats) -> Area | None:
    """Return the AUC from summed sums float64[LENGTH]; None without a positive or without a negative."""
    parts = np.asarray(summed, np.float64).reshape(2, 3, BINS)
    positives, negatives = parts[0, 0], parts[1, 0]
    pairs = positives.sum() * negatives.sum()
    if pairs <= 0:
        return None
    below = np.cumsum(negatives) - negatives
    shared = np.flatnonzero(positives * negatives > 0)
    right, doubt = _within(parts[:, :, shared])
    together = (positives * negatives)[shared]
    value = (positives @ below + together @ right) / pairs
    return Area(float(min(1.0, max(0.0, value))), float(together @ doubt / pairs))


def within(parts: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the share of a bin's pairs in the right order, and whether all of its scores are equal; [2, 3, bins].

    A bin without negatives has no pairs, and only its positives' scores are compared.
    """
    rows = np.maximum(parts[:, 0], 1.0)
    alone = parts[1, 0] <= 0
    means = parts[:, 1] / rows
    variances = np.maximum(parts[:, 2] / rows - means**2, 0.0)
    apart, spread = np.where(alone, 0.0, means[0] - means[1]), variances.sum(axis=0)
    steps = apart / np.sqrt(2 * (spread + _SAME))
    right = np.array([0.5 * (1 + math.erf(step)) for step in steps.tolist()])
    return right, (np.abs(apart) < 0.5 / _GRID) & (spread < 1 / (4 * _GRID**2 * rows.sum(axis=0)))


def _within(parts: Floats) -> tuple[Floats, Floats]:
    """Return the share of pairs of a bin in the right order, and how much it may be wrong by; from [2, 3, bins]."""
    means = parts[:, 1] / parts[:, 0]
    variances = np.maximum(parts[:, 2] / parts[:, 0] - means**2, 0.0)
    apart, spread = means[0] - means[1], variances.sum(axis=0)
    steps = apart / np.sqrt(2 * (spread + _SAME))
    right = np.array([0.5 * (1 + math.erf(step)) for step in steps.tolist()])
    surely = np.where(np.abs(apart) > 0, apart**2 / (spread + apart**2 + _SAME), 0.0)  # Cantelli's inequality
    least, most = np.where(apart > 0, surely, 0.0), np.where(apart > 0, 1.0, 1 - surely)
    astray = 4 * _GRID**2 * spread  # the most rows, as a share, that are not on the same point of the grid
    tied = (np.abs(apart) < 0.5 / _GRID) & (astray < 1)
    return right, np.where(tied, np.minimum(astray, 1.0), np.maximum(right - least, most - right))
