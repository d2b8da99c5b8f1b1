"""What a site keeps of its own while all train one model: layers never sent, a personal model, control variates.

| parameter | kept at a site | source |
| --- | --- | --- |
| local_layers | those layers | FedPer, Arivazhagan et al. (2019); of normalisation: FedBN, Li et al. (ICLR 2021) |
| personal_weight | a model v that minimises loss(v) + weight/2 abs(v - w)^2 | Ditto, Li et al. (ICML 2021), alg. 1 |
| control_variates | c_i, about the mean gradient at this site | SCAFFOLD, Karimireddy et al. (ICML 2020), alg. 1, II |

The control variate c of all sites travels as tensors of the model that rounds average: c + (c_i' - c_i) is what a site
gives back. It moves by the mean over the sites of a round, which is the algorithm's where all sites take part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from undersong.recipes.protocol import Array, RecipeError, Tensors
from undersong.shared.names import hint

if TYPE_CHECKING:
    import torch

CONTROL: Final = "control."


def local_names(layers: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the tensors of these layers; raises `RecipeError` for one that names none."""
    known = list(names)
    for layer in layers:
        if not any(_is_of(layer, name) for name in known):
            raise RecipeError(f"local_layers names {layer!r}, and the model has no such layer{hint(layer, known)}")
    return [name for name in known if any(_is_of(layer, name) for layer in layers)]


def control_tensors(tensors: Tensors, trained: Iterable[str]) -> Tensors:
    """Return the first control variates, zeros, of the trained tensors; raises `RecipeError` where names are taken."""
    if taken := [name for name in tensors if name.startswith(CONTROL)]:
        raise RecipeError(f"the model has a tensor {taken[0]}, a name that is taken here: rename the layer")
    return {CONTROL + name: np.zeros_like(tensors[name], np.float32) for name in trained}


def merged(model: Tensors, local: Tensors) -> Tensors:
    """Return the model with the tensors that a site keeps in place of the common ones; raises `RecipeError`."""
    return {name: _fitting(name, local, value) if _is_kept(name, local) else value for name, value in model.items()}


def _fitting(name: str, local: Tensors, value: Array) -> Array:
    """Return a tensor that a site kept; raises `RecipeError` where it has not the shape of the model's."""
    kept = local[name]
    if kept.shape != value.shape:
        raise RecipeError(
            f"what this site kept of the job's last round does not fit its model: {name} has the shape "
            f"{list(kept.shape)}, and the model's {list(value.shape)}; a recipe's parameters stay the same for all "
            "rounds of a job: start a new job"
        )
    return kept


@dataclass(frozen=True, slots=True)
class ControlVariates:
    """The control variates of all sites (`common`, c) and of this one (`own`, c_i), by names of trained tensors."""

    common: Tensors
    own: Tensors

    @classmethod
    def of(cls, model: Tensors, local: Tensors) -> ControlVariates:
        """Return those of a round; a site's own are zero in its first one."""
        common = {name.removeprefix(CONTROL): value for name, value in model.items() if name.startswith(CONTROL)}
        kept = {CONTROL + name: np.zeros_like(c) for name, c in common.items()} | local
        return cls(common, {name: _fitting(CONTROL + name, kept, c) for name, c in common.items()})

    def correction(self, place: torch.device) -> Mapping[str, torch.Tensor]:
        """Return c - c_i, which each step adds to its gradients."""
        import torch

        return {name: torch.from_numpy(c - self.own[name]).to(place) for name, c in self.common.items()}

    def after(self, before: Tensors, made: Tensors, rates: float) -> tuple[Tensors, Tensors]:
        """Return what the site gives back in the place of c, and its new c_i, after steps of these rates in all."""
        sent, kept = {}, {}
        for name, c in self.common.items():
            moved = (before[name] - made[name]).astype(np.float64) / rates  # which float32 may round to 0
            kept[CONTROL + name] = (self.own[name] - c + moved).astype(np.float32)
            sent[CONTROL + name] = (c + kept[CONTROL + name] - self.own[name]).astype(np.float32)
        return sent, kept


def _is_of(layer: str, name: str) -> bool:
    return name.startswith(layer)


def _is_kept(name: str, local: Tensors) -> bool:
    return name in local and not name.startswith(CONTROL)
