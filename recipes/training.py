"""What recipes that use torch share around a module: its device, its random numbers, its tensors and its outputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np

from undersong.recipes.protocol import Array, RecipeError, Tensors

if TYPE_CHECKING:
    import torch

_SMALL: Final = 2**20  # numbers


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
def fitting_threads(features: Array, module: torch.nn.Module) -> Iterator[None]:
    """Use one thread for small data and modules, where a second one costs more than it brings (and disturbs others)."""
    import torch

    before, parameters = torch.get_num_threads(), sum(each.numel() for each in module.parameters())
    torch.set_num_threads(1 if features.size < _SMALL and parameters < _SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def named_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the module's parameters and buffers by name; a tensor with several names has only the first."""
    seen: set[int] = set()
    found = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


def state_of(module: torch.nn.Module, names: Collection[str]) -> Tensors:
    """Return these of the module's tensors as numpy arrays, bfloat16 as float32."""
    return {name: _array_of(tensor) for name, tensor in named_tensors(module).items() if name in names}


def tensor_of(array: Array) -> torch.Tensor:
    """Return a tensor on this machine's device."""
    import torch

    return torch.from_numpy(np.array(array)).to(device())


def _array_of(tensor: torch.Tensor) -> Array:
    import torch

    plain = tensor.detach().float() if tensor.dtype is torch.bfloat16 else tensor.detach()
    return np.array(plain.cpu().numpy())


def load_state(module: torch.nn.Module, tensors: Tensors, without: Collection[str] = ()) -> None:
    """Put tensors of the same names and shapes into the module, but for those `without`; raises `RecipeError`."""
    import torch

    with torch.no_grad():
        for name, tensor in named_tensors(module).items():
            if name in without:
                continue
            if name not in tensors or tuple(tensors[name].shape) != tuple(tensor.shape):
                has = f"has the shape {list(tensors[name].shape)}" if name in tensors else "is missing"
                raise RecipeError(
                    f"the model's tensors do not fit this recipe's parameters: {name} {has}, and the recipe makes "
                    f"{list(tensor.shape)}: give the parameters that the model was made with"
                )
            tensor.copy_(torch.from_numpy(np.array(tensors[name])))


def outputs(
    module: torch.nn.Module,
    features: Array,
    meant: Callable[[torch.Tensor], torch.Tensor] | None = None,
    batch: int = 4096,
) -> Array:
    """Return the module's outputs in evaluation mode, float32[n, ...]; `meant` turns them into what they mean."""
    import torch

    place = device()
    module.to(place).eval()
    said = []
    with torch.no_grad(), fitting_threads(features, module):
        for at in range(0, len(features), batch):
            part = module(torch.from_numpy(features[at : at + batch]).to(place))
            said.append((part if meant is None else meant(part)).float().cpu().numpy())
    return np.concatenate(said)
