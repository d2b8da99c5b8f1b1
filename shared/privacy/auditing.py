"""Lower bounds on epsilon from guesses about canaries: what a mechanism gives away, measured instead of claimed.

Source: Steinke, Nasr and Jagielski, Privacy Auditing with One (1) Training Run (NeurIPS 2023), theorem 5.2: each of m
canaries is in the data by a fair coin of its own; who sees the result guesses r of the coins and abstains for the rest.
Under (epsilon, delta) the number of right guesses is at most as large as that of r coins which are right with
probability e^epsilon / (1 + e^epsilon), but for a term in delta. Many right guesses refute a small epsilon.
scipy is imported where something is computed.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.shared.errors import Invalid

Scores = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]
MOST_EPSILON: Final = 64.0
_STEPS: Final = 36  # halvings: far below the digits that are printed
_FAR: Final = 12.0  # standard deviations, beyond which a binomial has no mass worth adding


class BadGuesses(Invalid):
    """The counts of canaries, guesses and right guesses do not fit one another."""


@dataclass(frozen=True, slots=True)
class Guesses:
    """How many of `canaries` coins were guessed, and how many of these `guesses` were `right`."""

    canaries: int
    guesses: int
    right: int

    def __post_init__(self) -> None:
        """Raise `BadGuesses` unless 0 <= right <= guesses <= canaries, and there is a guess."""
        if not 0 <= self.right <= self.guesses <= self.canaries or not self.guesses:
            raise BadGuesses(f"{self.right} right of {self.guesses} guesses about {self.canaries} canaries is no count")


def p_value(made: Guesses, epsilon: float, delta: float) -> float:
    """Return how likely so many right guesses are, at most, where (epsilon, delta) holds."""
    from scipy.stats import binom

    chance = 1 / (1 + math.exp(-epsilon))
    exact = float(binom.sf(made.right - 1, made.guesses, chance))
    if not delta:
        return exact
    least = made.guesses * chance - _FAR * math.sqrt(made.guesses * chance * (1 - chance))
    fewer = np.arange(1, max(1, made.right - math.floor(max(0.0, least))) + 1)
    below = np.cumsum(binom.pmf(made.right - fewer, made.guesses, chance))
    worst = float(np.max(below / fewer, initial=0.0))
    return min(1.0, exact + 2 * made.canaries * delta * worst)


def epsilon_lower_bound(made: Guesses, delta: float, confidence: float = 0.95) -> float:
    """Return the largest epsilon that the guesses refute at this confidence: 0 where they refute none.

    A mechanism that is (epsilon, delta)-differentially private stays below its epsilon with probability `confidence`.
    """
    allowed = 1 - confidence
    if p_value(made, 0.0, delta) > allowed:
        return 0.0
    low, high = 0.0, MOST_EPSILON
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(made, middle, delta) <= allowed else (low, middle)
    return low


def guess(scores: Scores, coins: Coins, guesses: int) -> Guesses:
    """Guess the coins of the canaries with the highest scores as in, of the lowest as out: half of `guesses` each.

    `scores` float64[m] are larger where a canary looks as if it were in; `coins` bool[m] say which are. A tie is broken
    by position, which is independent of the coins.
    """
    half = guesses // 2
    if scores.shape != coins.shape or scores.ndim != 1 or half < 1:
        raise BadGuesses(f"{guesses} guesses about {scores.shape} scores and {coins.shape} coins")
    order = np.argsort(scores, kind="stable")
    right = int(np.count_nonzero(coins[order[-half:]])) + int(np.count_nonzero(~coins[order[:half]]))
    return Guesses(len(coins), 2 * half, right)


@dataclass(frozen=True, slots=True)
class OneRunPlan:
    """How many canaries and guesses an audit has, and the bound to expect if the noise were half of what is claimed."""

    canaries: int
    guesses: int
    expected_at_half: float


_SHARES: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def plan_one_run(signal: float, delta: float, *, most_canaries: int = 10**6, confidence: float = 0.95) -> OneRunPlan:
    """Return the numbers of canaries and guesses with which halved noise would give the highest bound.

    `signal` is the distance of a canary's mean score between in and out, in standard deviations, as claimed: for T
    Gaussian mechanisms with noise multiplier z it is sqrt(T) / z.
    """
    found = [
        OneRunPlan(canaries, guesses, _expected(2 * signal, canaries, guesses, delta, confidence))
        for canaries in _sizes(most_canaries)
        for share in _SHARES
        if (guesses := 2 * round(share * canaries / 2)) >= 2
    ]
    return max(found, key=lambda plan: (plan.expected_at_half, -plan.canaries))


def _sizes(most: int) -> list[int]:
    sizes = [most]
    while sizes[-1] > 1000:
        sizes.append(sizes[-1] * 10 // 32)
    return sizes


def _expected(signal: float, canaries: int, guesses: int, delta: float, confidence: float) -> float:
    """Return the bound for the mean number of right guesses, less one standard deviation."""
    wrong = _wrong_share(signal, guesses / canaries) * guesses
    right = max(0, math.floor(guesses - wrong - math.sqrt(wrong)))
    return epsilon_lower_bound(Guesses(canaries, guesses, right), delta, confidence)


def _wrong_share(signal: float, share: float) -> float:
    """Return which part of the guesses is wrong when the highest and lowest share / 2 of all scores are guessed."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    def above(threshold: float) -> float:  # scores are N(+-signal / 2, 1) in equal parts
        return float(norm.sf(threshold - signal / 2) + norm.sf(threshold + signal / 2)) / 2

    threshold = brentq(lambda at: above(at) - share / 2, -signal - 40, signal + 40)
    return float(norm.sf(threshold + signal / 2)) / 2 / above(threshold)
