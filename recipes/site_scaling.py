"""Changes that a site scales before they are sent, for strategies that divide one sum over sites by another.

| strategy | scaled_by | factor of the change | the site's own number c |
| --- | --- | --- | --- |
| fednova | steps | s / c | its steps, corrected for momentum and proximal term: Wang et al. (NeurIPS 2020) |
| qfedavg | loss | F^q / s | F^q + q F^(q-1) L abs(change)^2, L = 1 / rate: Li et al. (ICLR 2020), alg. 2, over L |

s is the scale that all sites know from the model; in its place they send their own number, as
`undersong.shared.learning.strategies` describes. F is the mean loss over the site's training rows before it trains.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np

from undersong.recipes.fitting import DIVERGED, Fitted
from undersong.recipes.local_training import LocalTraining
from undersong.recipes.protocol import Array, Context, RecipeError, Tensors
from undersong.shared.learning.strategies import SCALE, SCALE_UNIT, no_scale

_STRATEGIES: Final = {"steps": "fednova", "loss": "qfedavg"}
_FIRST: Final = {"steps": 10.0, "loss": 1.0}
_LEAST_LOSS: Final = 1e-10  # as in the authors' code: 0 to a negative power is no number


def scale_tensors(settings: Mapping[str, Any]) -> Tensors:
    """Return the tensor by which a model begins that is trained with scaled changes; none for others."""
    first = _FIRST.get(settings["scaled_by"])
    return {} if first is None else {SCALE: np.array([math.log(first)], np.float32)}


def scaled(
    before: Tensors,
    made: Tensors,
    names: Collection[str],
    fitted: Fitted,
    settings: Mapping[str, Any],
    context: Context,
) -> Tensors:
    """Return what a site gives back of these tensors: their changes scaled, and its own number in the place of s.

    A model that was begun for such a strategy keeps its scale where none is asked for. Raises `RecipeError` for
    one that was not, and for losses and steps of which no number follows.
    """
    by = settings["scaled_by"]
    if by not in _STRATEGIES:
        return {SCALE: before[SCALE]} if SCALE in before else {}
    if SCALE not in before:
        raise RecipeError(no_scale(_STRATEGIES[by]))
    options = LocalTraining.of(settings)
    changes = {name: made[name].astype(np.float64) - before[name] for name in names}
    try:
        scale = math.exp(float(before[SCALE][0]))
        if by == "steps":
            own = fitted.path / options.learning_rate
            factor = scale / own
        else:
            square = sum(float(np.sum(change * change)) for change in changes.values())
            factor, own = _of_loss(fitted.first_loss, square / options.rate(context, 0, 1), options.fairness)
            factor /= scale
        number = (own / scale - 1) / SCALE_UNIT
    except ArithmeticError:  # a number that is too large, or a scale that sites moved to 0
        raise RecipeError(DIVERGED) from None
    if not math.isfinite(factor) or not math.isfinite(number):
        raise RecipeError(DIVERGED)
    sent = {name: _moved(made[name], before[name] + factor * change) for name, change in changes.items()}
    return sent | {SCALE: (before[SCALE] + number).astype(np.float32)}


def _of_loss(loss: float, curvature: float, q: float) -> tuple[float, float]:
    """Return F^q, and q F^(q-1) times L |change|^2 more."""
    if not loss >= 0:
        raise RecipeError(
            f"strategy qfedavg weighs sites by their loss, and the loss here is {loss:.4g}: give a loss that is never "
            "below 0, or take another strategy"
        )
    loss = max(loss, _LEAST_LOSS)
    weight = loss**q
    return weight, weight + q * loss ** (q - 1) * curvature


def _moved(like: Array, values: Array) -> Array:
    """Return values in a type that holds the change: float64 as it is, shorter types as float32."""
    return values.astype(np.float64 if like.dtype == np.float64 else np.float32)
