"""Membership inference: how well a model's losses tell the rows it was trained on from those it was not.

Sources: Yeom, Giacomelli, Fredrikson and Jha, Privacy Risk in Machine Learning (CSF 2018), for the loss threshold;
Carlini, Chien, Nasr, Song, Terzis and Tramèr, Membership Inference Attacks From First Principles (S&P 2022), for the
likelihood ratio attack (LiRA), here offline: a row's confidence under the model is compared with a Gaussian fitted to
its confidences under shadow models that did not see it. Intervals are Clopper and Pearson's (1934), that of the area is
Hanley and McNeil's (1982). scipy is imported where something is computed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.shared.errors import Invalid

Values = npt.NDArray[np.float64]
Members = npt.NDArray[np.bool_]
FALSE_POSITIVE_RATES: Final = (0.001, 0.01)
ENOUGH_SHADOWS: Final = 64
"""Shadow models from which each row has a variance of its own; with fewer all rows share one (Carlini et al., VI.C)."""
_LEAST_LOSS, _MOST_LOSS = 1e-12, 700.0
_LEAST_DEVIATION: Final = 1e-6


class BadScores(Invalid):
    """There is nothing to tell apart: no member, no other row, or scores that are no numbers."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Caught:
    """Which share of the members is found where at most `rate` of the other rows are taken for members."""

    rate: float
    members: Share


@dataclass(frozen=True, slots=True)
class MembershipFigures:
    """How well scores tell `members` rows from `others` rows: 0.5 is chance for `area`, the rate for each of `caught`.

    `curve` has points of (false positive rate, true positive rate) at equal steps of the logarithm of the first.
    """

    members: int
    others: int
    area: Share
    caught: tuple[Caught, ...]
    curve: tuple[tuple[float, float], ...]


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> Share:
    """Return the share of hits with its exact interval; raises `BadScores` without trials."""
    from scipy.stats import beta

    if not 0 <= hits <= trials or not trials:
        raise BadScores(f"{hits} of {trials} is no share")
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(beta.ppf(1 - tail, hits + 1, trials - hits))
    return Share(hits / trials, low, high)


def membership_figures(scores: Values, members: Members, confidence: float = 0.95) -> MembershipFigures:
    """Measure an attack: `scores` float64[n] are larger for members, `members` bool[n] say which are.

    Raises `BadScores`.
    """
    if scores.shape != members.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise BadScores(f"{scores.shape} scores and {members.shape} memberships do not fit, or are not finite numbers")
    inside, outside = scores[members], np.sort(scores[~members])
    if not inside.size or not outside.size:
        raise BadScores(
            f"an attack needs rows of both kinds: there are {inside.size} members and {outside.size} others"
        )
    caught = tuple(
        Caught(rate, clopper_pearson(_found(inside, outside, rate), inside.size, confidence))
        for rate in FALSE_POSITIVE_RATES
    )
    rates = _rates(outside.size)
    curve = tuple((rate, _found(inside, outside, rate) / inside.size) for rate in rates)
    return MembershipFigures(inside.size, outside.size, _area(inside, outside, confidence), caught, curve)


def _found(inside: Values, outside: Values, rate: float) -> int:
    """Count the members above the lowest threshold that at most `rate` of the other rows exceed."""
    allowed = math.floor(rate * outside.size + 1e-9)
    threshold = -math.inf if allowed >= outside.size else outside[outside.size - 1 - allowed]
    return int(np.count_nonzero(inside > threshold))


def _rates(others: int) -> Sequence[float]:
    steps = max(2, min(40, 10 * math.ceil(math.log10(others + 1))))
    return [float(rate) for rate in np.logspace(-math.log10(others), 0, steps)] if others > 1 else [1.0]


def _area(inside: Values, outside: Values, confidence: float) -> Share:
    from scipy.stats import norm, rankdata

    count, others = inside.size, outside.size
    ranks = rankdata(np.concatenate([inside, outside]))[:count]
    area = float((ranks.sum() - count * (count + 1) / 2) / (count * others))
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (count - 1) * (first - area**2) + (others - 1) * (second - area**2)
    reach = float(norm.ppf((1 + confidence) / 2)) * math.sqrt(max(spread, 0.0) / (count * others))
    return Share(area, max(0.0, area - reach), min(1.0, area + reach))


def confidences(losses: Values) -> Values:
    """Return log(p / (1 - p)) of p = exp(-loss), the probability of a row's own label: roughly normal over models."""
    bounded = np.clip(losses, _LEAST_LOSS, _MOST_LOSS)
    return np.asarray(-np.where(bounded > 30, bounded, np.log(np.expm1(np.minimum(bounded, 30)))))


def halves(shadows: int, rows: int, random: np.random.Generator) -> Members:
    """Draw which shadow models are taught which rows, bool[shadows, rows]: each row half of them, by chance."""
    places = random.permuted(np.tile(np.arange(shadows)[:, None], rows), axis=0)
    return np.asarray(places < shadows // 2)


def offline_scores(target: Values, shadows: Values, taught: Members) -> Values:
    """Return LiRA's score of each row: how unusual its confidence is for models that did not see it, float64[n].

    `target` float64[n] are confidences under the model that is audited, `shadows` float64[k, n] under shadow models,
    `taught` bool[k, n] says which shadow models were trained on which rows. Raises `BadScores` where a row has fewer
    than two shadow models that did not see it.
    """
    from scipy.stats import norm

    if shadows.shape != taught.shape or shadows.shape[1:] != target.shape:
        raise BadScores(f"confidences {target.shape}, {shadows.shape} and {taught.shape} do not fit")
    unseen = ~taught
    counts = unseen.sum(axis=0)
    if counts.size and counts.min() < 2:
        raise BadScores("a row has fewer than two shadow models that did not see it: train more")
    means = np.where(unseen, shadows, 0.0).sum(axis=0) / counts
    squares = np.where(unseen, (shadows - means) ** 2, 0.0).sum(axis=0)
    variances = squares / (counts - 1) if len(shadows) >= ENOUGH_SHADOWS else squares.sum() / (counts - 1).sum()
    deviations = np.maximum(np.sqrt(variances), _LEAST_DEVIATION)
    return np.asarray(norm.logcdf((target - means) / deviations), np.float64)
