"""Several processes of one site that train together: each computes a part of every batch, and gradients are summed.

The result is that of one process up to the rounding of sums (Goyal et al., Accurate, Large Minibatch SGD, 2017, section
3): a batch's mean loss is the sum of the parts' means, each weighed by its share of the rows. Processes meet through a
file and talk over loopback (torch.distributed: NCCL where each has a GPU of its own, else Gloo).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from undersong.recipes.training import device

if TYPE_CHECKING:
    import torch

WAIT: Final = timedelta(minutes=10)
"""How long a process waits for the others at a step."""
LOOPBACK: Final = {
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "NCCL_SHM_DISABLE": "1",  # the confinement opens no folder of shared memory
}


class Unneeded(Exception):
    """This training is not divided: the first process does it alone, and the others have nothing to do."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among those that train together."""

    rank: int = 0
    size: int = 1

    def part(self, rows: int) -> slice:
        """Return which of so many rows of a batch are this process's."""
        return slice(self.rank * rows // self.size, (self.rank + 1) * rows // self.size)

    def total(self, value: float) -> float:
        """Return the sum of a number over the processes, the same at all of them."""
        return value if self.size == 1 else self._numbers(value)

    def of_first(self, value: float) -> float:
        """Return the first process's number, so that all decide alike."""
        return value if self.size == 1 else self._numbers(value if self.rank == 0 else 0.0)

    def add_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes; one that no process has stays none."""
        if self.size == 1:
            return
        import torch
        from torch import distributed

        held = torch.tensor([float(each.grad is not None) for each in parameters], device=device())
        distributed.all_reduce(held)
        wanted = [each for each, count in zip(parameters, held.tolist(), strict=True) if count]
        kinds = {torch.promote_types(each.dtype, torch.float32) for each in wanted}
        for kind in sorted(kinds, key=str):
            mine = [each for each in wanted if torch.promote_types(each.dtype, torch.float32) is kind]
            flat = torch.cat([_gradient(each).reshape(-1).to(kind) for each in mine])
            distributed.all_reduce(flat)
            parts = flat.split([each.numel() for each in mine])  # type: ignore[no-untyped-call]
            for each, value in zip(mine, parts, strict=True):
                each.grad = value.reshape(each.shape).to(each.dtype)

    def _numbers(self, value: float) -> float:
        import torch
        from torch import distributed

        found = torch.tensor([value], dtype=torch.float64, device=device())
        distributed.all_reduce(found)
        return float(found.item())


ALONE: Final = Ranks()


def ranks() -> Ranks:
    """Return this process's place; alone where no others were started."""
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        return ALONE
    return Ranks(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def together(rank: int, size: int, store: Path) -> Iterator[None]:
    """Meet the other processes in here, through a file that is new; each gets its share of threads, and its GPU."""
    import torch
    from torch import distributed

    os.environ.update(LOOPBACK)
    cuda = device().type == "cuda"
    own = cuda and torch.cuda.device_count() >= size
    if cuda:
        torch.cuda.set_device(rank % torch.cuda.device_count())
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // size))
    meeting = distributed.FileStore(str(store), size)  # type: ignore[attr-defined]
    distributed.init_process_group("nccl" if own else "gloo", store=meeting, rank=rank, world_size=size, timeout=WAIT)
    try:
        yield
    finally:
        distributed.destroy_process_group()
        torch.set_num_threads(before)


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    import torch

    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
