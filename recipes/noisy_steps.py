"""Gradients with noise that protects each record: one step of DP-SGD, for recipes that train with torch.

Source: Abadi et al., Deep Learning with Differential Privacy (CCS 2016), algorithm 1. Departs: gradients are clipped
and rounded on a grid of integers, and the noise is discrete Gaussian, so that rounding of floating-point numbers cannot
show what was added (Mironov, On Significance of the Least Significant Bits For Differential Privacy, CCS 2012). One
record moves the sum of integers by a norm of at most `grid`, which is checked in integers. Noise and samples come from
the kernel's generator and AES-CTR, never from a seed that another party knows: the steps cannot be repeated.

The number of rows is not protected: a site tells it in its profile, and the mean is over the expected sample. A record
is protected against being replaced by one without any effect.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.protocol import RecipeError, RecordNoise

if TYPE_CHECKING:
    import torch

    Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

GRID: Final = 2**18
"""Steps of the grid in one clip norm: what rounding adds to a gradient is far below any noise."""
_AT_ONCE: Final = 2**22  # numbers of records' gradients in memory together
_MARGIN: Final = 1e-5  # relative: what float32 may get wrong in a norm; a record beyond it is left out


def poisson_sample(count: int, probability: float) -> npt.NDArray[np.int64]:
    """Return the positions of a sample of 0 … count - 1 with each in it with `probability`, independently."""
    if probability >= 1:
        return np.arange(count)
    drawn = np.frombuffer(os.urandom(8 * count), "<u8")
    return np.flatnonzero(drawn < np.uint64(math.floor(probability * 2**64)))


def grid_of(noise: RecordNoise, length: int) -> int:
    """Return how many steps of the grid a clip norm has; raises `RecipeError` where too few for so much noise."""
    from undersong.shared.privacy.noise import MAX_SIGMA

    grid = min(GRID, math.floor(MAX_SIGMA / noise.noise_multiplier))
    if _limit(grid, length) < grid / 2:
        raise RecipeError(
            f"noise of {noise.noise_multiplier:g} clip norms cannot be drawn for {length} parameters: "
            "allow more epsilon, or train a smaller model"
        )
    return grid


def _limit(grid: int, length: int) -> float:
    """Return the norm to clip to before rounding, which moves each coordinate by half a step."""
    return (grid - math.sqrt(length) / 2) * (1 - _MARGIN)


def clipped(gradients: torch.Tensor, clip_norm: float, grid: int) -> torch.Tensor:
    """Return float32[n, d] gradients clipped to `clip_norm`, in steps of the grid: int64[n, d], norms at most `grid`.

    A gradient that is not finite becomes zero.
    """
    import torch

    limit = _limit(grid, gradients.shape[1])
    norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True).clamp(min=clip_norm)
    scaled = torch.nan_to_num(gradients * (limit / norms), nan=0.0, posinf=0.0, neginf=0.0)
    rounded = scaled.round().clamp(-grid, grid).to(torch.int64)
    fits = (rounded * rounded).sum(dim=1, keepdim=True) <= grid * grid
    return rounded * fits


def set_noisy_gradients(
    module: torch.nn.Module, loss: Loss, x: torch.Tensor, y: torch.Tensor, noise: RecordNoise
) -> None:
    """Set the gradients of the module's parameters to a noisy mean over a fresh sample of the rows.

    `loss` is a mean over the rows that it gets. Raises `RecipeError` for a module whose outputs for one row depend on
    the others. Parameters that are not trained (requires_grad = False) get no gradient.
    """
    import torch
    from torch.func import functional_call, grad, vmap

    from undersong.shared.privacy.noise import add_discrete_gaussian

    if looks_at_batches(module):
        raise RecipeError(
            "a model that keeps means over batches cannot protect records: it would keep them exactly; normalise each "
            "row alone (GroupNorm, LayerNorm)"
        )
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    weights = {name: parameter.detach() for name, parameter in trained.items()}

    def loss_of_one(parameters: dict[str, torch.Tensor], row: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return loss(functional_call(module, parameters, (row[None],)), truth[None])

    of_each = vmap(grad(loss_of_one), in_dims=(None, 0, 0), randomness="different")
    length = sum(parameter.numel() for parameter in weights.values())
    grid, total = grid_of(noise, length), np.zeros(length, np.int64)
    sample, at_once = poisson_sample(len(y), noise.probability), max(1, _AT_ONCE // length)
    for start in range(0, len(sample), at_once):
        rows = torch.from_numpy(sample[start : start + at_once]).to(x.device)
        found = of_each(weights, x[rows], y[rows])
        flat = torch.cat([found[name].flatten(1) for name in weights], dim=1)
        total += clipped(flat, noise.clip_norm, grid).sum(dim=0).cpu().numpy()
    add_discrete_gaussian(total, noise.noise_multiplier * grid, os.urandom(32))
    step = noise.clip_norm / (grid * noise.probability * len(y))
    _set(list(trained.values()), np.asarray(total * step, np.float64))


def looks_at_batches(module: torch.nn.Module) -> bool:
    """Return whether a layer normalises over the rows of a step, or keeps means over them."""
    from torch.nn.modules import batchnorm

    kinds = batchnorm._NormBase  # noqa: SLF001 (the one base of the layers of batch and instance normalisation)
    return any(
        isinstance(layer, batchnorm._BatchNorm) or layer.track_running_stats  # noqa: SLF001
        for layer in module.modules()
        if isinstance(layer, kinds)
    )


def _set(trained: list[torch.nn.Parameter], mean: npt.NDArray[np.float64]) -> None:
    import torch

    at = 0
    for parameter in trained:
        part = mean[at : at + parameter.numel()].astype(np.float32)
        parameter.grad = torch.from_numpy(part).reshape(parameter.shape).to(parameter.device, parameter.dtype)
        at += parameter.numel()
