"""Losses that jobs may choose, each a mean over the rows of a step.

Weights of classes multiply a row's loss; the mean is over the number of rows, not over the sum of the weights, so that
it is the mean of what single rows give (which noise that protects records relies on).

Sources: Lin et al., Focal Loss for Dense Object Detection (ICCV 2017), equation 4; Koenker and Bassett, Regression
Quantiles (Econometrica 1978).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from undersong.recipes.protocol import RecipeError
from undersong.recipes.survival import cox_loss
from undersong.shared.wire.profiles import Task

if TYPE_CHECKING:
    import torch

    Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def loss_of(task: Task, classes: int, settings: Mapping[str, Any]) -> Loss:
    """Return the loss of outputs float32[n, k] and labels [n]; raises `RecipeError` for weights of other classes."""
    if task is Task.REGRESSION:
        return _of_numbers(settings)
    if task is Task.NEXT_TOKEN:
        return _of_tokens
    if task is Task.SURVIVAL:
        return cox_loss
    weights = list(settings.get("class_weights") or ())
    if weights and len(weights) != classes:
        raise RecipeError(
            f"class_weights has {len(weights)} numbers, and the label {classes} classes: give one for each"
        )
    gamma = float(settings.get("focal_gamma", 2.0)) if settings.get("loss") == "focal" else 0.0
    rows = _of_two if task is Task.BINARY else _of_classes

    def mean(said: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        import torch

        found = rows(said, truth)
        if gamma:
            found = (-torch.expm1(-found)).clamp(min=1e-12) ** gamma * found
        if weights:
            found = torch.tensor(weights, dtype=found.dtype, device=found.device)[truth.long()] * found
        return found.mean()

    return mean


def _of_two(said: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    return functional.binary_cross_entropy_with_logits(said[:, 0], truth, reduction="none")


def _of_classes(said: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    return functional.cross_entropy(said, truth, reduction="none")


def _of_tokens(said: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the mean over the places of logits [n, places, tokens] where a token follows; truth int64[n, places]."""
    from torch.nn import functional

    total = functional.cross_entropy(said.transpose(1, 2), truth, ignore_index=-1, reduction="sum")
    return total / (truth >= 0).sum().clamp(min=1)


def _of_numbers(settings: Mapping[str, Any]) -> Loss:
    from torch.nn import functional

    name = settings.get("loss", "auto")
    if name == "huber":
        return lambda said, truth: functional.huber_loss(said[:, 0], truth, delta=settings["huber_delta"])
    if name == "absolute":
        return lambda said, truth: functional.l1_loss(said[:, 0], truth)
    if name == "quantile":
        quantile = float(settings["quantile"])
        return lambda said, truth: _pinball(truth - said[:, 0], quantile)
    return lambda said, truth: functional.mse_loss(said[:, 0], truth)


def _pinball(error: torch.Tensor, quantile: float) -> torch.Tensor:
    import torch

    return torch.maximum(quantile * error, (quantile - 1) * error).mean()
