"""Recipe `series`: forecasts from windows of a series, by a linear model, an MLP, a GRU or a TCN.

Its columns are those of windows (`speed@-1`, `speed@0`, and `rain@+3` where it is known in advance), as a data set with
`series` declares them. Source of the TCN: Bai, Kolter and Koltun, An Empirical Evaluation of Generic Convolutional and
Recurrent Networks for Sequence Modeling (2018), section 3; without its weight normalisation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from undersong.recipes.learner import ModelShape
from undersong.recipes.protocol import Column, RecipeError
from undersong.recipes.torch_recipe import TORCH_FILES, TorchRecipe

if TYPE_CHECKING:
    import torch

_HERE: Final = Path(__file__).parent
_STEP: Final = re.compile(r"(.+)@(-[0-9]+|0|\+[0-9]+)", re.DOTALL)
_INPUTS: Final = 2  # of a number column: its value, and whether it is missing
_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "model": {
        "enum": ["linear", "mlp", "gru", "tcn"],
        "default": "linear",
        "description": "linear and mlp take all values of a window at once; gru and tcn go through its steps in order.",
    },
    "target": {
        "enum": ["change", "value"],
        "default": "change",
        "description": "What is learned: the change of the target since its last known value, or the value itself.",
    },
    "hidden": {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": 65_536},
        "minItems": 1,
        "maxItems": 12,
        "default": [32, 32],
        "description": "Width of each hidden layer of mlp and gru, and of each block of tcn: each doubles the distance "
        "of the steps that it looks at.",
    },
    "kernel": {
        "type": "integer",
        "minimum": 2,
        "maximum": 64,
        "default": 3,
        "description": "Steps that a convolution of tcn takes together.",
    },
    "dropout": {
        "type": "number",
        "minimum": 0,
        "maximum": 0.95,
        "default": 0.0,
        "description": "Share of each hidden layer's numbers that a step leaves out.",
    },
}


@dataclass(frozen=True, slots=True)
class WindowInputs:
    """Where the values of windows stand among a row's inputs: by step from the oldest on, and those known in advance.

    steps: [steps][columns], empty where the columns do not all have the same steps; then `gap` says what lacks.
    """

    steps: tuple[tuple[int, ...], ...]
    known: tuple[int, ...]
    gap: str | None = None

    @classmethod
    def of(cls, columns: Sequence[Column]) -> WindowInputs:
        """Read the columns' names; raises `RecipeError` for one that is of no window."""
        places: dict[tuple[str, int], int] = {}
        for at, column in enumerate(columns):
            found = _STEP.fullmatch(column.name)
            if found is None:
                raise RecipeError(
                    f"column {column.name} is of no window: declare `series` in the data set, or take recipe tabular"
                )
            places[found[1], int(found[2])] = at * _INPUTS
        names = list(dict.fromkeys(name for name, step in places if step <= 0))
        steps = sorted({step for _, step in places if step <= 0})
        lacking = [f"{name}@{step}" for name in names for step in steps if (name, step) not in places]
        known = tuple(at for (_, step), at in places.items() if step > 0)
        if lacking or not steps:
            return cls((), known, lacking[0] if lacking else "a past step")
        return cls(tuple(tuple(places[name, step] for name in names) for step in steps), known)

    @property
    def all(self) -> tuple[int, ...]:
        """The places of all values that go through steps, step by step."""
        return tuple(at for step in self.steps for at in step)


class SeriesRecipe(TorchRecipe):
    """A torch recipe whose label may be the change since the target's last known value."""

    def origin(self, columns: Sequence[Column], label: str | None, settings: Mapping[str, Any]) -> str | None:
        """Return the column of the target's last known value."""
        if settings["target"] == "value":
            return None
        found = _STEP.fullmatch(label or "")
        last = f"{found[1]}@0" if found else ""
        if last not in [column.name for column in columns]:
            raise RecipeError(
                f"target: change needs the last known value of the label {label}, column {last or 'NAME@0'}: leave it "
                "among the features, or set target: value"
            )
        return last


def build(
    shape: ModelShape, model: str, hidden: Sequence[int], kernel: int, dropout: float, **_: object
) -> torch.nn.Module:
    """Zeros for the linear model, torch's own draw for the others."""
    from torch import nn

    places = WindowInputs.of(shape.columns)
    if model in ("gru", "tcn"):
        if places.gap is not None:
            raise RecipeError(f"{model} goes through the steps of every column, and the features lack {places.gap}")
        return (
            _recurrent(places, hidden, dropout) if model == "gru" else _convolutional(places, hidden, kernel, dropout)
        )
    values = [at * _INPUTS for at in range(len(shape.columns))]
    if model == "linear":
        linear = nn.Linear(len(values), 1)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        return _picking(values, linear)
    layers: list[nn.Module] = []
    width = len(values)
    for following in hidden:
        layers += [nn.Linear(width, following), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
        width = following
    return _picking(values, nn.Sequential(*layers, nn.Linear(width, 1)))


def _picking(values: Sequence[int], then: torch.nn.Module) -> torch.nn.Module:
    """Return a module that hands the inputs in these places to another."""
    from torch import nn

    class Values(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = then

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            said: torch.Tensor = self.model(x[:, list(values)])
            return said

    return Values()


def _stepwise(places: WindowInputs, body: torch.nn.Module, width: int) -> torch.nn.Module:
    """Return a module that hands [n, steps, columns] to `body`, and its last step and what is known to a layer."""
    import torch
    from torch import nn

    steps, at = len(places.steps), list(places.all)

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = body, nn.Linear(width + len(places.known), 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            last = self.body(x[:, at].reshape(-1, steps, len(at) // steps))[:, -1]
            said: torch.Tensor = self.head(torch.cat([last, x[:, list(places.known)]], dim=1))
            return said

    return Steps()


def _recurrent(places: WindowInputs, hidden: Sequence[int], dropout: float) -> torch.nn.Module:
    from torch import nn

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (len(places.steps[0]), *hidden)
            self.layers = nn.ModuleList(
                nn.GRU(before, after, batch_first=True) for before, after in zip(widths, hidden, strict=False)
            )
            self.dropout = nn.Dropout(dropout)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = self.dropout(layer(x)[0])
            return x

    return _stepwise(places, Layers(), hidden[-1])


def _convolutional(places: WindowInputs, hidden: Sequence[int], kernel: int, dropout: float) -> torch.nn.Module:
    import torch
    from torch import nn
    from torch.nn.functional import pad

    class Block(nn.Module):
        """Two convolutions over earlier steps, and a way around them."""

        def __init__(self, before: int, after: int, distance: int) -> None:
            super().__init__()
            self.reach = (kernel - 1) * distance
            self.first = nn.Conv1d(before, after, kernel, dilation=distance)
            self.second = nn.Conv1d(after, after, kernel, dilation=distance)
            self.around = nn.Identity() if before == after else nn.Conv1d(before, after, 1)
            self.dropout = nn.Dropout(dropout)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = x
            for layer in (self.first, self.second):
                made = self.dropout(torch.relu(layer(pad(made, (self.reach, 0)))))
            return torch.relu(made + self.around(x))

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (len(places.steps[0]), *hidden)
            self.blocks = nn.Sequential(
                *(Block(before, after, 2**at) for at, (before, after) in enumerate(zip(widths, hidden, strict=False)))
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.blocks(x.transpose(1, 2))
            return made.transpose(1, 2)

    return _stepwise(places, Layers(), hidden[-1])


RECIPE: Final = SeriesRecipe(
    [_HERE / name for name in ("series.py", *TORCH_FILES)],
    build=build,
    task="regression",
    inputs=("number",),
    name="series",
    params=_PARAMETERS,
    record_params={"properties": {"model": {"enum": ["linear", "mlp", "tcn"]}}},
    description="Forecasts from windows of a series: linear, MLP, GRU or TCN, of the target or of its change.",
)
