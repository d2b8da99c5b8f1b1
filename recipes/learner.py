"""What a supervised recipe hands to whatever learns, and what that hands back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from undersong.recipes.protocol import Array, Column, Context, Progress, Tensors
from undersong.shared.wire.profiles import Task


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a model is made for: `inputs` numbers in a row, shaped as `sample`, and `outputs` numbers for it.

    A table's row has the shape (inputs,), an image (channels, height, width), a text that of its encoded form. Outputs:
    1 for task binary (the log odds of class 1), regression and survival (the log hazard), one for each class (logits)
    for multiclass. `columns` are those of a table, in order (see `undersong.recipes.table` for the inputs that each
    gives); others have none. With task next_token a text's row has `outputs` logits at each of its places. `tokens`:
    how many numbers stand for tokens, where texts are made of a vocabulary.
    """

    sample: tuple[int, ...]
    outputs: int
    task: Task
    columns: tuple[Column, ...] = ()
    tokens: int = 0

    @property
    def inputs(self) -> int:
        """Numbers in one row."""
        return math.prod(self.sample)


@dataclass(frozen=True, slots=True)
class LocalRound:
    """A site's part in a round: its rows, and how it is to train on them.

    x: float32[n, …], or what `encode` makes of texts. y: float[n], in standard deviations with task regression,
    int64[n] classes with multiclass, or with survival float32[n, 2]: the rank of the time, and 1 where the event came.
    """

    shape: ModelShape
    x: Array
    y: Array
    settings: Mapping[str, Any]
    context: Context
    seed: int
    progress: Progress
    local: Tensors = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Learned:
    """Tensors that a site trained, over how many rows, and their mean loss; `events`, `local` as in `TrainResult`."""

    tensors: Tensors
    examples: int
    loss: float
    events: tuple[Any, ...] = ()
    local: Tensors = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FirstTensors:
    """A model's first tensors: which are averaged only (`buffers`), which stay (`fixed`), which are bfloat16."""

    tensors: Tensors
    buffers: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    bfloat16: tuple[str, ...] = ()


def sigmoid(logits: Array) -> Array:
    """Probabilities from logits, without overflow."""
    return np.where(
        logits >= 0, 1 / (1 + np.exp(-np.abs(logits))), np.exp(-np.abs(logits)) / (1 + np.exp(-np.abs(logits)))
    )


def softmax(logits: Array) -> Array:
    """Probabilities [n, classes] from logits."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def probabilities(shape: ModelShape, outputs: Array) -> npt.NDArray[np.float64]:
    """Return what outputs [n, outputs] mean: probabilities from log odds or logits, values as they are."""
    outputs = outputs.astype(np.float64)
    if shape.task is Task.MULTICLASS:
        return softmax(outputs)
    return np.asarray(sigmoid(outputs[:, 0]) if shape.task is Task.BINARY else outputs[:, 0])
