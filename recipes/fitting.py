"""The training loop of the recipes that use torch: steps over mini-batches, repeatable by seed.

Where a round protects records, each step's gradient is a noisy one (`undersong.recipes.noisy_steps`). What else the
steps do is in `undersong.recipes.local_training`.

Sources: of the term mu/2 |w - w_t|^2 Li et al., Federated Optimization in Heterogeneous Networks (MLSys 2020); of steps
that are corrected Karimireddy et al., SCAFFOLD (ICML 2020), algorithm 1; of counted steps Wang et al. (NeurIPS 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.local_training import LocalTraining
from undersong.recipes.noisy_steps import looks_at_batches, set_noisy_gradients
from undersong.recipes.parallel import ALONE, Unneeded, ranks
from undersong.recipes.protocol import Array, Context, Params, Progress, RecipeError, record_noise
from undersong.recipes.training import device, fitting_threads
from undersong.shared.wire.privacy import PoissonGaussianEvent, RecordNoise

if TYPE_CHECKING:
    import torch

Loss = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
Augment = Callable[["torch.Tensor", np.random.Generator], "torch.Tensor"]
Rows = npt.NDArray[np.int64]

_AUGMENTING: Final = 1
_AT_ONCE: Final = 4096  # rows held back whose loss is computed together
_ALONE: Final = "batch normalisation cannot train on a row alone: give a larger batch_size, or normalise in groups"
DIVERGED: Final = "training diverged: the loss is not a finite number; lower the learning rate"


@dataclass(frozen=True, slots=True)
class Fitted:
    """How many rows were trained on, their mean loss over the steps (0.0 with noise), and the noisy steps taken.

    rates: the sum of all steps' learning rates. path: how far gradients of norm 1 in one direction would have led, by
    the steps that the result rests on (FedNova's norm of a_i, times the learning rate). first_loss: the mean loss over
    the rows before the first step, where the round needs it.
    """

    examples: int
    loss: float
    events: tuple[PoissonGaussianEvent, ...] = ()
    rates: float = 0.0
    path: float = 0.0
    first_loss: float = 0.0


@dataclass(frozen=True, slots=True)
class Adjusted:
    """How steps differ from plain ones: `correction` is added to gradients, by name, `weight`/2 |w - anchor|^2 to the
    loss.

    Without an anchor the module's own values as training begins are it. `augment` changes a step's rows at random, not
    those that are held back.
    """

    correction: Mapping[str, torch.Tensor] = field(default_factory=dict)
    anchor: Mapping[str, torch.Tensor] = field(default_factory=dict)
    weight: float | None = None
    augment: Augment | None = None


PLAIN: Final = Adjusted()


def fit(
    module: torch.nn.Module,
    features: Array,
    labels: Array,
    loss: Loss,
    params: Params,
    context: Context,
    seed: int,
    progress: Progress,
    adjusted: Adjusted = PLAIN,
) -> Fitted:
    """Train the module in place, with the noise that the context asks for. Raises `RecipeError`."""
    import torch

    place = device()
    module.to(place).train()
    x, y = torch.from_numpy(features).to(place), torch.from_numpy(labels).to(place)
    course = _Course(module, x, y, loss, LocalTraining.of(params), context, adjusted)
    noise = record_noise(context)
    with fitting_threads(features, module):
        return course.exact(seed, progress) if noise is None else course.noisy(noise, progress)


class _Course:
    """One round of training at a site."""

    def __init__(
        self,
        module: torch.nn.Module,
        x: torch.Tensor,
        y: torch.Tensor,
        loss: Loss,
        options: LocalTraining,
        context: Context,
        adjusted: Adjusted,
    ) -> None:
        self._module, self._x, self._y, self._loss = module, x, y, loss
        self._options, self._context = options, context
        named = {name: each for name, each in module.named_parameters() if each.requires_grad}
        self._trained = list(named.values())
        if not self._trained:
            raise RecipeError("the model has no parameter to train: every one has requires_grad = False")
        self._weight = options.proximal_mu if adjusted.weight is None else adjusted.weight
        places = {name: adjusted.anchor.get(name, each).detach().clone() for name, each in named.items()}
        self._anchor = list(places.values()) if self._weight else []
        self._correction = [adjusted.correction.get(name) for name in named]
        self._augment = adjusted.augment
        self._ranks, self._share = ALONE, 1.0
        self._rates = self._path = self._speed = 0.0
        self._optimiser = _optimiser(self._trained, options)

    def exact(self, seed: int, progress: Progress) -> Fitted:
        """Pass over the rows; where some are held back, stop when they gain no more and keep their best epoch."""
        self._divide(seed)
        options, random = self._options, np.random.default_rng(seed)
        rows, held = _held_back(len(self._y), options.validation_fraction)
        steps, done, total, seen = options.epochs * _steps_in(len(rows), options.batch_size), 0, 0.0, 0
        best = _BestEpoch(self._module, options.patience)
        first_loss = self._mean_loss(rows) if options.scaled_by == "loss" else 0.0
        changes = np.random.default_rng([seed, _AUGMENTING])  # of its own, so that the order of rows stays the same
        for _ in range(options.epochs):
            for batch in _batches(rows, options.batch_size, random, pairs=looks_at_batches(self._module)):
                value = self._exact_step(batch, done, steps, changes)
                total, seen, done = total + value * len(batch), seen + len(batch), done + 1
                progress(min(1.0, done / steps))
            if held.size and best.is_over(self._mean_loss(held), self._path):
                break
        path = best.restore(self._path)
        return Fitted(len(rows), total / max(seen, 1), rates=self._rates, path=path, first_loss=first_loss)

    def _divide(self, seed: int) -> None:
        """Share each batch with this site's other processes, where there are any and the module allows it."""
        found = ranks()
        if found.rank and looks_at_batches(self._module):
            raise Unneeded
        if found.size > 1 and not looks_at_batches(self._module):
            import torch

            self._ranks = found
            torch.manual_seed(seed + found.rank)  # each draws its own dropout

    def noisy(self, noise: RecordNoise, progress: Progress) -> Fitted:
        """Take the steps that a round which protects records asks for; other processes than the first take none."""
        if ranks().rank:
            raise Unneeded
        steps = int(noise.steps)
        for done in range(steps):
            self._optimiser.zero_grad()
            set_noisy_gradients(self._module, self._loss, self._x, self._y, noise)
            self._step(None, done, steps)
            progress((done + 1) / steps)
        return Fitted(len(self._y), 0.0, (noise.event,))

    def _exact_step(self, rows: Rows, done: int, steps: int, changes: np.random.Generator) -> float:
        self._optimiser.zero_grad()
        part = self._ranks.part(len(rows))
        self._share = (part.stop - part.start) / len(rows)
        value = self._loss_of(rows, changes, part) if self._share else None
        if value is not None and self._share < 1:
            value = value * self._share
        said = self._ranks.total(0.0 if value is None else float(value.detach()))
        if not math.isfinite(said):
            raise RecipeError(DIVERGED)
        self._step(value, done, steps)
        return said

    def _loss_of(
        self, rows: Rows, changes: np.random.Generator | None = None, part: slice = slice(None)
    ) -> torch.Tensor:
        """Return the mean loss of a part of these rows, which are changed together."""
        import torch

        if changes is not None and self._augment is not None:
            x = self._augment(self._x[rows], changes)[part]
        else:
            x = self._x[rows[part]]
        half = self._options.precision == "bfloat16"
        try:
            with torch.autocast(self._x.device.type, torch.bfloat16) if half else nullcontext():
                said = self._module(x)
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                raise RecipeError(_ALONE) from error
            raise
        value = self._loss(said.float() if half else said, self._y[rows[part]])
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise RecipeError("the loss must be one number for all rows of a step: return its mean")
        return value

    def _step(self, value: torch.Tensor | None, done: int, steps: int) -> None:
        """Add the proximal term to the gradients, clip them, and step by the scheduled rate."""
        import torch

        pulled = _proximal(self._trained, self._anchor, self._weight * self._share)
        parts = [part for part in (value, pulled) if part is not None]
        if parts:
            torch.autograd.backward(sum(parts[1:], parts[0]))
        self._ranks.add_gradients(self._trained)
        for parameter, correction in zip(self._trained, self._correction, strict=True):
            if correction is not None and parameter.grad is not None:
                parameter.grad.add_(correction)
        if self._options.clip_gradient:
            torch.nn.utils.clip_grad_norm_(self._trained, self._options.clip_gradient)
        rate = self._options.rate(self._context, done, steps)
        self._rates += rate
        self._speed = self._options.momentum * self._speed + 1 - self._weight * self._path
        self._path += rate * self._speed
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()

    def _mean_loss(self, rows: Rows) -> float:
        """Return the mean loss of rows held back, in evaluation mode."""
        import torch

        self._module.eval()
        with torch.no_grad():
            parts = [rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE)]
            total = sum(float(self._loss_of(part)) * len(part) for part in parts)
        self._module.train()
        return self._ranks.of_first(total / len(rows))


class _BestEpoch:
    """The module as it was after its best epoch."""

    def __init__(self, module: torch.nn.Module, patience: int) -> None:
        self._module, self._patience = module, patience
        self._best, self._waited, self._path = math.inf, 0, 0.0
        self._kept: dict[str, torch.Tensor] = {}

    def is_over(self, loss: float, path: float) -> bool:
        """Take in an epoch's loss; return whether `patience` epochs were not better than the best one."""
        if loss < self._best:
            self._best, self._waited, self._path = loss, 0, path
            self._kept = {name: value.detach().clone() for name, value in self._module.state_dict().items()}
        else:
            self._waited += 1
        return 0 < self._patience <= self._waited

    def restore(self, path: float) -> float:
        """Put the best epoch's values back; return the path that led there, `path` where all of it did."""
        if not self._kept:
            return path
        self._module.load_state_dict(self._kept)
        return self._path


def _optimiser(trained: list[torch.nn.Parameter], options: LocalTraining) -> torch.optim.Optimizer:
    import torch

    rate, decay = options.learning_rate, options.weight_decay
    if options.optimiser == "sgd":
        return torch.optim.SGD(trained, rate, options.momentum, weight_decay=decay)
    kind = torch.optim.AdamW if options.optimiser == "adamw" else torch.optim.Adam
    return kind(trained, rate, weight_decay=decay)


def _held_back(count: int, share: float) -> tuple[Rows, Rows]:
    """Return the rows to train on and those held back, the same in every round; raises `RecipeError`."""
    rows = np.arange(count)
    if not share:
        return rows, rows[:0]
    if count < 2:
        raise RecipeError(
            f"validation_fraction holds rows back, and the data set has {count} for training: set it to 0"
        )
    order = np.random.default_rng(0).permutation(count)
    kept = min(count - 1, max(1, round(share * count)))
    return np.sort(order[kept:]), np.sort(order[:kept])


def _steps_in(count: int, batch_size: int) -> int:
    return math.ceil(count / (batch_size or count))


def _batches(rows: Rows, batch_size: int, random: np.random.Generator, *, pairs: bool = False) -> Iterator[Rows]:
    """Yield an epoch's batches; with `pairs` a last row alone goes with the batch before it, or stays out."""
    order, size = rows[random.permutation(len(rows))], batch_size or len(rows)
    if pairs and len(rows) % size == 1 and len(rows) > 1 and size > 1:
        order, last = order[:-1], order[-1:]
    else:
        last = order[:0]
    starts = range(0, len(order), size)
    for at in starts:
        batch = order[at : at + size]
        yield np.concatenate([batch, last]) if at == starts[-1] else batch


def _proximal(trained: list[torch.nn.Parameter], anchor: list[torch.Tensor], mu: float) -> torch.Tensor | None:
    if not anchor:
        return None
    parts = [(p - a).pow(2).sum() for p, a in zip(trained, anchor, strict=True)]
    return mu / 2 * sum(parts[1:], parts[0])
