"""Log-likelihoods with gradient and information at given coefficients: what Newton's method needs of each site.

| family | response y | model |
| --- | --- | --- |
| logistic | 0 or 1 | P(y = 1) = 1 / (1 + exp(-eta)) |
| poisson | a count | E(y) = exposure x exp(eta) |
| cox | 0 or 1: whether the event came at `time` | hazard(t) = h_site(t) exp(eta), partial likelihood |

eta = X b. Every function returns sums over rows, so that sites' results add up to those of all rows together; of a Cox
model to those of the partial likelihood stratified by site, in which each site has a baseline hazard of its own.

Sources: Nelder & Wedderburn, Generalized Linear Models (JRSS A 1972); Cox, Regression Models and Life-Tables (JRSS B
1972), with ties as in Efron, The Efficiency of Cox's Likelihood Function (JASA 1977), eq. 6.
Shapes: n rows, k coefficients; design float64[n, k], response float64[n].
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
MOST_ETA: Final = 30.0
"""A linear predictor is cut off here: exp(30) rows are more than any federation has."""


@dataclass(frozen=True, slots=True)
class Curvature:
    """The log-likelihood at some coefficients, its gradient float64[k] and its information float64[k, k]."""

    value: float
    gradient: Floats
    information: Floats


def logistic(design: Floats, response: Floats, coefficients: Floats) -> Curvature:
    """Return the curvature of a logistic model."""
    eta = _predictor(design, coefficients)
    mean = 1 / (1 + np.exp(-eta))
    value = float(response @ eta - np.logaddexp(0, eta).sum())
    return Curvature(value, design.T @ (response - mean), _weighted(design, mean * (1 - mean)))


def poisson(design: Floats, response: Floats, coefficients: Floats, exposure: Floats) -> Curvature:
    """Return the curvature of a Poisson model, its value without the terms that depend on no coefficient."""
    eta = _predictor(design, coefficients)
    mean = exposure * np.exp(eta)
    return Curvature(float(response @ eta - mean.sum()), design.T @ (response - mean), _weighted(design, mean))


def cox(design: Floats, event: Floats, coefficients: Floats, time: Floats) -> Curvature:
    """Return the curvature of one site's partial likelihood, with Efron's treatment of tied events.

    Of d events at one time the l-th (from 0) has the risk set's sums less l/d of those of the d rows themselves.
    """
    order = np.argsort(-time, kind="stable")
    design, event, time = design[order], event[order], time[order]
    eta = _predictor(design, coefficients)
    hazard = np.exp(eta)
    weighed = design * hazard[:, None]
    last = np.searchsorted(-time, -time[event > 0], side="right")  # the risk set of each event: the rows before
    at, deaths = np.unique(last, return_counts=True)
    place = np.concatenate([np.arange(d) / d for d in deaths]) if at.size else np.empty(0)
    of = np.repeat(np.arange(at.size), deaths)
    tied, tied_sums = _of_events(hazard, weighed, event, last, at)
    risk, risk_sums = np.cumsum(hazard)[at - 1], np.cumsum(weighed, axis=0)[at - 1]
    left = risk[of] - place * tied[of]
    means = (risk_sums[of] - place[:, None] * tied_sums[of]) / left[:, None]
    value = float(eta @ event - np.log(left).sum())
    share = _shares(left, place, of, at, event, last, len(time))
    gradient = event @ design - means.sum(axis=0)
    return Curvature(value, gradient, _weighted(design, hazard * share) - means.T @ means)


def _of_events(hazard: Floats, weighed: Floats, event: Floats, last: Places, at: Places) -> tuple[Floats, Floats]:
    """Return the sums of hazard float64[m] and of hazard x row float64[m, k] over the events of each of m times."""
    dead = np.flatnonzero(event > 0)
    which = np.searchsorted(at, last)
    tied, sums = np.zeros(at.size), np.zeros((at.size, weighed.shape[1]))
    np.add.at(sums, which, weighed[dead])
    np.add.at(tied, which, hazard[dead])
    return tied, sums


def _shares(left: Floats, place: Floats, of: Places, at: Places, event: Floats, last: Places, rows: int) -> Floats:
    """Return the weight of each row's hazard x row x row' in all risk sets together, float64[n]."""
    each = np.bincount(of, weights=1 / left, minlength=at.size)
    own = np.bincount(of, weights=place / left, minlength=at.size)
    steps = np.zeros(rows)
    np.add.at(steps, at - 1, each)  # a risk set is all rows up to its last
    share = np.cumsum(steps[::-1])[::-1]
    share[event > 0] -= own[np.searchsorted(at, last)]
    return share


def concordance(eta: Floats, event: Floats, time: Floats) -> tuple[float, float]:
    """Return of one site's pairs how many are concordant (ties of eta count half), and how many can be compared.

    A pair is compared if the row with the earlier time had the event; at the same time, if one of the two had it.
    Source: Harrell, Lee & Mark, Multivariable Prognostic Models (Statistics in Medicine 1996), section 5.5.
    """
    ranks = np.unique(eta, return_inverse=True)[1]
    tree = _Ranks(int(ranks.max(initial=0)) + 1)
    order = np.lexsort((event, -time))  # the latest first; at one time those without the event first
    concordant = compared = 0.0
    start = 0
    while start < order.size:
        end = start
        while end < order.size and time[order[end]] == time[order[start]]:
            end += 1
        now = order[start:end]
        for row in now[event[now] == 0]:
            tree.add(int(ranks[row]))
        dead = now[event[now] > 0]
        for row in dead:
            below, same = tree.below(int(ranks[row])), tree.below(int(ranks[row]) + 1)
            concordant += below + (same - below) / 2
            compared += tree.size
        for row in dead:
            tree.add(int(ranks[row]))
        start = end
    return concordant, compared


class _Ranks:
    """How many of the ranks that were added lie below another (Fenwick, Software: Practice and Experience 1994)."""

    def __init__(self, most: int) -> None:
        self.size = 0
        self._sums = [0] * (most + 1)

    def add(self, rank: int) -> None:
        self.size += 1
        place = rank + 1
        while place < len(self._sums):
            self._sums[place] += 1
            place += place & -place

    def below(self, rank: int) -> int:
        found, place = 0, rank
        while place:
            found += self._sums[place]
            place -= place & -place
        return found


def _predictor(design: Floats, coefficients: Floats) -> Floats:
    return np.clip(design @ coefficients, -MOST_ETA, MOST_ETA)


def _weighted(design: Floats, weights: Floats) -> Floats:
    """Return X' diag(weights) X, float64[k, k]."""
    found: Floats = design.T @ (design * weights[:, None])
    return found
