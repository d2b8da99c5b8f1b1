"""The training loop that the torch recipes share: mini-batch SGD, repeatable by seed, with FedProx's proximal term.

Where a round protects records, each step's gradient is a noisy one (`undersong.recipes.noisy_steps`).

Source of the term mu/2 |w - w_t|^2: Li et al., Federated Optimization in Heterogeneous Networks (MLSys 2020).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from undersong.recipes.noisy_steps import set_noisy_gradients
from undersong.recipes.protocol import Array, Context, Params, Progress, RecipeError, Tensors, record_noise
from undersong.shared.wire.privacy import PoissonGaussianEvent

if TYPE_CHECKING:
    import torch

Loss = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]

_SMALL: Final = 2**20  # numbers
SCHEMA: Final[dict[str, dict[str, Any]]] = {
    "epochs": {
        "type": "integer",
        "minimum": 1,
        "maximum": 1000,
        "default": 1,
        "description": "Passes over the rows in a round.",
    },
    "batch_size": {
        "type": "integer",
        "minimum": 0,
        "maximum": 100_000,
        "default": 32,
        "description": "Rows in a step; 0 takes all rows at once.",
    },
    "learning_rate": {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": 100,
        "default": 0.1,
        "description": "Learning rate of SGD at the sites.",
    },
    "momentum": {
        "type": "number",
        "minimum": 0,
        "exclusiveMaximum": 1,
        "default": 0.0,
        "description": "Momentum of SGD, which begins anew in each round.",
    },
    "weight_decay": {
        "type": "number",
        "minimum": 0,
        "maximum": 10,
        "default": 0.0,
        "description": "L2 penalty of SGD.",
    },
    "proximal_mu": {
        "type": "number",
        "minimum": 0,
        "maximum": 1000,
        "default": 0.0,
        "description": "Weight of the proximal term of FedProx; 0 is plain SGD.",
    },
}
"""Parameters of every recipe that trains with torch, as JSON schemas with their defaults."""


def defaults(schema: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the parameters' defaults."""
    return {name: entry["default"] for name, entry in schema.items()}


def device() -> torch.device:
    """Return what UNDERSONG_DEVICE says (auto, cpu, cuda, mps); auto takes the fastest there is."""
    import torch

    wanted = os.environ.get("UNDERSONG_DEVICE", "auto")
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers start from `seed` in here, and go on outside as if nothing had been."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def fitting_threads(features: Array) -> Iterator[None]:
    """Use one thread for small data, where a second one costs more than it brings (and disturbs other agents)."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if features.size < _SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def state_of(module: torch.nn.Module) -> Tensors:
    """Return the module's tensors as numpy arrays."""
    return {name: value.detach().cpu().numpy().copy() for name, value in module.state_dict().items()}


def load_state(module: torch.nn.Module, tensors: Tensors) -> None:
    """Put tensors of the same names and shapes into the module; raises `RecipeError`."""
    import torch

    names = module.state_dict().keys()
    try:
        module.load_state_dict({name: torch.from_numpy(np.array(tensors[name])) for name in names})
    except (KeyError, RuntimeError) as error:
        raise RecipeError(f"the model's tensors do not fit this recipe's parameters: {error}") from None


@dataclass(frozen=True, slots=True)
class Fitted:
    """The mean loss over all rows that were seen (0.0 where records are protected), and the noisy steps taken."""

    loss: float
    events: tuple[PoissonGaussianEvent, ...] = ()


def fit(
    module: torch.nn.Module,
    features: Array,
    labels: Array,
    loss: Loss,
    params: Params,
    context: Context,
    seed: int,
    progress: Progress,
) -> Fitted:
    """Train the module in place, with the noise that the context asks for. Raises `RecipeError`."""
    import torch

    place = device()
    module.to(place).train()
    x, y = torch.from_numpy(features).to(place), torch.from_numpy(labels).to(place)
    anchor = [p.detach().clone() for p in module.parameters()] if params["proximal_mu"] else []
    optimiser = torch.optim.SGD(
        module.parameters(), params["learning_rate"], params["momentum"], weight_decay=params["weight_decay"]
    )
    total, seen, noise = 0.0, 0, record_noise(context)
    batches = list(_batches(len(labels), params, seed)) if noise is None else []
    steps = len(batches) if noise is None else int(noise.steps)
    with fitting_threads(features):
        for done in range(steps):
            optimiser.zero_grad()
            value: torch.Tensor | float = 0.0
            if noise is not None:
                set_noisy_gradients(module, loss, x, y, noise)
            else:
                rows = batches[done]
                value = loss(module(x[rows]), y[rows])
                total, seen = total + value.item() * len(rows), seen + len(rows)
            value = value + _proximal(module, anchor, params["proximal_mu"])
            if isinstance(value, torch.Tensor):
                torch.autograd.backward(value)
            optimiser.step()
            progress((done + 1) / steps)
    if not math.isfinite(total):
        raise RecipeError("training diverged: the loss is not a finite number; lower the learning rate")
    return Fitted(total / max(seen, 1), () if noise is None else (noise.event,))


def outputs(module: torch.nn.Module, features: Array, batch: int = 4096) -> Array:
    """Return the module's outputs in evaluation mode, float32[n, ...]."""
    import torch

    place = device()
    module.to(place).eval()
    with torch.no_grad(), fitting_threads(features):
        parts = [
            module(torch.from_numpy(features[at : at + batch]).to(place)).cpu().numpy()
            for at in range(0, len(features), batch)
        ]
    return np.concatenate(parts)


def _batches(count: int, params: Params, seed: int) -> Iterator[Array]:
    size = params["batch_size"] or count
    random = np.random.default_rng(seed)
    for _ in range(params["epochs"]):
        order = random.permutation(count)
        yield from (order[at : at + size] for at in range(0, count, size) if count)


def _proximal(module: torch.nn.Module, anchor: list[torch.Tensor], mu: float) -> torch.Tensor | float:
    if not anchor:
        return 0.0
    parts = [(p - a).pow(2).sum() for p, a in zip(module.parameters(), anchor, strict=True)]
    return mu / 2 * sum(parts[1:], parts[0])


def sigmoid(logits: Array) -> Array:
    """Probabilities from logits, without overflow."""
    return np.where(
        logits >= 0, 1 / (1 + np.exp(-np.abs(logits))), np.exp(-np.abs(logits)) / (1 + np.exp(-np.abs(logits)))
    )


def softmax(logits: Array) -> Array:
    """Probabilities [n, classes] from logits."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
