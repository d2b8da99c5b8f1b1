"""A predictor as one PyTorch module, its preparation inside: a row's columns in, what the platform predicts out.

In: float64[n, columns] in the order of the model's columns: numbers as they are, a category as its place among the
column's categories, NaN where missing. Out: probabilities float64[n, classes] (two with task binary), or a number
float64[n]. Where the platform refuses a row (an infinite number, a place that is no category's) it is NaN.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from undersong.recipes import trees as boosted
from undersong.recipes.labels import label_scale, origin_of
from undersong.recipes.learner import ModelShape
from undersong.recipes.prediction import Predictor
from undersong.recipes.protocol import RecipeError
from undersong.recipes.table import COLUMNS, MEAN, SCALE, columns_of, input_names, model_borders
from undersong.recipes.torch_recipe import TorchRecipe
from undersong.shared.statistics.tree_options import options_of
from undersong.shared.statistics.trees import TreeSplit
from undersong.shared.wire.columns import Column
from undersong.shared.wire.profiles import Task

EXPORTED: Final = (
    "what can be exported are trees, and models of tables by PyTorch (recipes tabular and series, own ones)"
)
MISSING: Final = 0.1
"""The share of drawn cells that are missing."""


def module_of(predictor: Predictor) -> torch.nn.Module:
    """Return the predictor's module in evaluation mode; raises `RecipeError` for a recipe that has none."""
    recipe = predictor.recipe
    if isinstance(recipe, boosted.TreesRecipe):
        return TreesModule(predictor).eval()
    if isinstance(recipe, TorchRecipe) and COLUMNS in predictor.tensors:
        return TableModule(predictor, *recipe.module_of(predictor.tensors, predictor.params)).eval()
    raise RecipeError(f"recipe {recipe.spec.name} has no such form: {EXPORTED}")


def drawn_codes(predictor: Predictor, rows: int) -> npt.NDArray[np.float64]:
    """Return rows like those that a model was made for, float64[n, columns] with NaN where missing, but in the first.

    Numbers lie around the federation's mean, or between and beyond the borders of intervals.
    """
    random, made = np.random.default_rng(0), []
    for place, column in enumerate(columns_of(predictor.tensors)):
        if column.type == "category":
            made.append(random.integers(0, len(column.categories or ("",)), rows).astype(np.float64))
        else:
            middle, spread = _typical(predictor, place)
            made.append(middle + spread * random.normal(size=rows) * 10.0 ** random.uniform(-1, 1, rows))
    codes = np.stack(made, axis=1)
    if origin_of(predictor.tensors) is None:
        codes[1:][random.random((rows - 1, codes.shape[1])) < MISSING] = np.nan
    return codes


def _typical(predictor: Predictor, place: int) -> tuple[float, float]:
    """Return about where a number column's values lie, and how far apart."""
    tensors, columns = predictor.tensors, columns_of(predictor.tensors)
    numbers = [at for at, column in enumerate(columns) if column.type != "category"]
    if isinstance(predictor.recipe, boosted.TreesRecipe):
        edges = boosted.trees_in(tensors, options_of(predictor.params)).bins.borders[place]
    elif (borders := model_borders(tensors)) is not None:
        edges = borders[numbers.index(place)]
    else:
        at = input_names(columns).index(columns[place].name)
        return float(tensors[MEAN][at]), float(tensors[SCALE][at])
    return (0.0, 1.0) if edges is None or not edges.size else (float(edges.mean()), float(edges.std()) or 1.0)


class _Rows(torch.nn.Module):
    """What both kinds of models do with a row that the platform refuses."""

    def __init__(self, columns: Sequence[Column], task: Task) -> None:
        super().__init__()
        self.categories = [len(column.categories or ()) if column.type == "category" else -1 for column in columns]
        self.task = task

    def refused(self, x: torch.Tensor) -> torch.Tensor:
        """Return whether the platform refuses each row, bool[n]."""
        found = torch.isinf(x).any(dim=1)
        for place, count in enumerate(self.categories):
            if count >= 0:
                values = x[:, place]
                known = (values[:, None] == torch.arange(count, dtype=x.dtype)).any(dim=1)
                found = found | ~(known | torch.isnan(values))
        return found

    def answered(self, x: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """Return answers with both classes of task binary, NaN for rows that are refused."""
        if self.task is Task.BINARY:
            said = torch.stack([1 - said, said], dim=1)
        refused = self.refused(x)
        refused = refused[:, None] if said.ndim == 2 else refused
        return torch.where(refused, torch.full_like(said, float("nan")), said)


class TableModule(_Rows):
    """Columns as inputs (`undersong.recipes.table`), the recipe's module, and what its outputs mean."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        predictor: Predictor,
        core: torch.nn.Module,
        scores: Callable[[torch.Tensor], torch.Tensor] | None,
        shape: ModelShape,
    ) -> None:
        columns = columns_of(predictor.tensors)
        super().__init__(columns, shape.task)
        self.core, self.scores, self.outputs = core, scores, shape.outputs
        self.register_buffer("mean", _doubles(predictor.tensors[MEAN]))
        self.register_buffer("scale", _doubles(predictor.tensors[SCALE]))
        self.label = label_scale(predictor.tensors)
        origin = origin_of(predictor.tensors)
        self.origin = next((at for at, column in enumerate(columns) if column.name == origin), None)
        borders = model_borders(predictor.tensors)
        self.binned = borders is not None
        numbers = [at for at, column in enumerate(columns) if column.type != "category"]
        for place, edges in zip(numbers, borders or (), strict=False):
            self.register_buffer(f"edges_{place}", _doubles(edges))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the model says of rows."""
        scaled = (torch.cat(self._raw(x), dim=1) - self.mean) / self.scale
        scaled = torch.where(torch.isnan(scaled), torch.zeros_like(scaled), scaled)
        said = self._meant(self.core(scaled.float()))
        if self.task is Task.REGRESSION:
            said = said * self.label[1] + self.label[0]
        if self.origin is not None:
            said = said + x[:, self.origin]
        return self.answered(x, said)

    def _raw(self, x: torch.Tensor) -> list[torch.Tensor]:
        made = []
        for place, count in enumerate(self.categories):
            values = x[:, place : place + 1]
            missing = torch.isnan(values)
            if count >= 0:
                made.append((values == torch.arange(count, dtype=x.dtype)).to(x.dtype))
            elif self.binned:
                edges: torch.Tensor = getattr(self, f"edges_{place}")
                part = (values >= edges).to(torch.int64).sum(dim=1, keepdim=True)
                made.append(((part == torch.arange(len(edges) + 1)) & ~missing).to(x.dtype))
            else:
                made.append(values)
            made.append(missing.to(x.dtype))
        return made

    def _meant(self, outputs: torch.Tensor) -> torch.Tensor:
        if self.scores is not None:
            outputs = self.scores(outputs).double()
            return outputs[:, 0] if self.outputs == 1 and outputs.ndim > 1 else outputs
        outputs = outputs.double()
        if self.task is Task.MULTICLASS:
            return torch.softmax(outputs, dim=1)
        return torch.sigmoid(outputs[:, 0]) if self.task is Task.BINARY else outputs[:, 0]


class TreesModule(_Rows):
    """Bins of values, and all trees at once, level by level (`undersong.shared.statistics.trees`)."""

    is_split: torch.Tensor
    column: torch.Tensor
    bin: torch.Tensor
    missing_left: torch.Tensor
    is_number: torch.Tensor
    missing_bin: torch.Tensor
    values: torch.Tensor
    start: torch.Tensor
    roots: torch.Tensor

    def __init__(self, predictor: Predictor) -> None:
        columns = columns_of(predictor.tensors)
        trees = boosted.trees_in(predictor.tensors, options_of(predictor.params))
        super().__init__(columns, predictor.task)
        self.label, self.width = trees.label, trees.start.size
        self.borders = [None if edges is None else len(edges) for edges in trees.bins.borders]
        for place, edges in enumerate(trees.bins.borders):
            if edges is not None:
                self.register_buffer(f"edges_{place}", _doubles(edges))
        count, nodes = trees.values.shape
        self.rounds = count // self.width
        self.levels = (nodes + 1).bit_length() - 2
        codes = np.full((count, nodes), -1, np.int64)
        codes[:, : trees.splits.shape[1]] = trees.splits
        split = [TreeSplit.of(max(code, 0)) for code in codes.ravel().tolist()]
        self.register_buffer("is_split", torch.from_numpy(codes.ravel() >= 0))
        self.register_buffer("column", torch.tensor([each.column for each in split]))
        self.register_buffer("bin", torch.tensor([each.bin for each in split]))
        self.register_buffer("missing_left", torch.tensor([each.missing_left for each in split]))
        self.register_buffer("is_number", torch.tensor([edges is not None for edges in trees.bins.borders]))
        self.register_buffer("missing_bin", torch.tensor([size - 1 for size in trees.bins.sizes]))
        self.register_buffer("values", _doubles(trees.values.ravel()))
        self.register_buffer("start", _doubles(trees.start))
        self.register_buffer("roots", torch.arange(count) * nodes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the trees say of rows."""
        places = torch.cat(self._places(x), dim=1)
        roots = self.roots
        node = torch.zeros_like(roots)[None, :] + torch.zeros_like(places[:, :1])
        for _ in range(self.levels):
            at = node + roots
            column = self.column[at]
            place, number = torch.gather(places, 1, column), self.is_number[column]
            missing = number & (place == self.missing_bin[column])
            left = (place == self.bin[at]) | (number & (place < self.bin[at]))
            left = (missing & self.missing_left[at]) | (left & ~missing)
            node = torch.where(self.is_split[at], 2 * node + 2 - left.to(torch.int64), node)
        said = self.values[node + roots].reshape(-1, self.rounds, self.width).sum(dim=1) + self.start
        if self.task is Task.MULTICLASS:
            return self.answered(x, torch.softmax(said, dim=1))
        if self.task is Task.BINARY:
            return self.answered(x, torch.sigmoid(said[:, 0]))
        return self.answered(x, said[:, 0] * self.label[1] + self.label[0])

    def _places(self, x: torch.Tensor) -> list[torch.Tensor]:
        made = []
        for place, edges in enumerate(self.borders):
            values = x[:, place : place + 1]
            missing = torch.isnan(values)
            known = torch.where(missing, torch.zeros_like(values), values)
            if edges is None:
                count = self.categories[place]
                found = known.clamp(0, max(count - 1, 0)).to(torch.int64)
                last = count
            else:
                found = (known >= getattr(self, f"edges_{place}")).to(torch.int64).sum(dim=1, keepdim=True)
                last = edges + 1
            made.append(torch.where(missing, torch.full_like(found, last), found))
        return made


def _doubles(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(values, np.float64))
