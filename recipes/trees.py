"""Recipe `trees`: gradient-boosted trees from secure sums of histograms, the same as over all rows in one place.

No site trains. A round of the job is one tree, grown level by level: in each, sites add up derivatives and rows by node
and bin, and the coordinator splits by the opened sums (`undersong.shared.statistics.growth`).
"""

# ruff: noqa: ARG002  (every recipe takes what the protocol names, used or not)

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from undersong.recipes.datasets import numbers_of
from undersong.recipes.learner import sigmoid, softmax
from undersong.recipes.protocol import (
    Context,
    Dataset,
    DataShape,
    Model,
    Params,
    Progress,
    RecipeError,
    Tensors,
    TrainResult,
    source_digest,
)
from undersong.recipes.supervised import READING
from undersong.recipes.table import COLUMNS, columns_of
from undersong.shared.errors import Refusal
from undersong.shared.learning.metrics import binary_sums, multiclass_sums, regression_sums
from undersong.shared.learning.tensors import Schema
from undersong.shared.names import hint
from undersong.shared.statistics.growth import Growth, site_sums
from undersong.shared.statistics.measures import SALT
from undersong.shared.statistics.tree_options import TreeOptions, options_of
from undersong.shared.statistics.trees import Bins, Trees, check_trees, trees_of
from undersong.shared.wire.profiles import RecipeSpec, Task

_HERE: Final = Path(__file__).parent
_FILES: Final = ("trees.py", "training.py", *READING)
_SALT_BITS: Final = 40
_BORDERS: Final = "trees.borders"
_SIZES: Final = "trees.border_counts"
_START: Final = "trees.start"
_LABEL: Final = "trees.label"
_SPLITS: Final = "trees.splits"
_VALUES: Final = "trees.values"


class TreesRecipe:
    """See the module."""

    def __init__(self) -> None:
        schema = TreeOptions.model_json_schema()
        self.spec: RecipeSpec = RecipeSpec(
            name="trees",
            version="1",
            digest=source_digest(*(_HERE / name for name in _FILES)),
            task=Task.BINARY,
            params_schema={name: schema[name] for name in ("type", "additionalProperties", "properties")},
            inputs=("number", "category"),
            grows="trees",
            description="Gradient-boosted trees on numbers and categories; a round is a tree.",
        )

    def sums(self, data: Dataset, params: Params, context: Context, seed: int) -> npt.NDArray[np.float64]:
        """Return what the next level of trees needs of the training rows, behind random numbers (`measures.SALT`)."""
        try:
            growth = Growth(data.columns, options_of(params), 1, data.label_name or "", context)
            label = self._labels(data.label[data.train], growth.options)
            found = site_sums(growth, data.features[data.train], label)
        except Refusal as refusal:
            raise RecipeError(refusal.detail) from refusal
        return np.concatenate([[float(secrets.randbits(_SALT_BITS)) for _ in range(SALT)], found])

    def grow(self, data: Dataset, params: Params, rounds: int) -> Model:
        """Return the trees of this data set's training rows alone, of so many rounds."""
        growth: Growth | Trees = Growth(data.columns, options_of(params), rounds, data.label_name or "", {})
        while isinstance(growth, Growth):
            growth = growth.take(self.sums(data, params, growth.context, 0).tolist())
        return self.initial(data.shape, params, growth.to_context(), 0)

    def initial(self, shape: DataShape, params: Params, context: Context, seed: int) -> Model:
        """Return the trees that the rounds of sums led to, as a model."""
        try:
            trees = trees_of(context, shape.columns, options_of(params))
        except Refusal as refusal:
            raise RecipeError(refusal.detail) from refusal
        if trees is None:
            raise RecipeError("there are no trees yet: they grow in rounds of sums before there is a model")
        document = [column.model_dump(mode="json", exclude_none=True) for column in shape.columns]
        packed = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
        borders = [each for each in trees.bins.borders if each is not None]
        tensors = {
            COLUMNS: np.frombuffer(packed, np.uint8),
            _BORDERS: np.concatenate([np.empty(0), *borders]),
            _SIZES: np.array([each.size for each in borders], np.int64),
            _START: trees.start,
            _LABEL: np.array(trees.label),
            _SPLITS: trees.splits,
            _VALUES: trees.values,
        }
        return Model(Schema.of(tensors, fixed=[name for name in tensors if name != _VALUES]), tensors)

    def statistics(self, data: Dataset, params: Params, seed: int) -> npt.NDArray[np.float64]:
        """There is nothing to standardise."""
        return self._no_training()

    def train(
        self, model: Tensors, data: Dataset, params: Params, context: Context, seed: int, progress: Progress
    ) -> TrainResult:
        """There is nothing to train."""
        return self._no_training()

    def evaluate(self, model: Tensors, data: Dataset, params: Params, context: Context) -> npt.NDArray[np.float64]:
        """Return sums over the test rows."""
        options = options_of(params)
        if data.columns != columns_of(model):
            raise RecipeError("the data set's columns or their categories are not those the model was made for")
        label = self._labels(data.label[data.test], options)
        said = _answers(model, data.features[data.test], options)
        if options.task == "multiclass":
            return multiclass_sums(label.astype(np.int64), said)
        return (binary_sums if options.task == "binary" else regression_sums)(label, said)

    def predict(self, model: Tensors, rows: Mapping[str, Any], params: Params) -> npt.NDArray[np.float64]:
        """Probabilities [n] or [n, classes], or values [n], from raw columns; one left out counts as missing."""
        columns = columns_of(model)
        known = [column.name for column in columns]
        if unknown := sorted(set(rows) - set(known)):
            raise RecipeError(f"the model has no column {', '.join(unknown)}{hint(unknown[0], known)}")
        length = max((len(values) for values in rows.values()), default=0)
        made = [numbers_of(column, rows.get(column.name, [None] * length)) for column in columns]
        return _answers(model, np.stack(made, axis=1), options_of(params))

    def _labels(self, label: npt.NDArray[np.float64], options: TreeOptions) -> npt.NDArray[np.float64]:
        classes = 2 if options.task == "binary" else options.classes
        if options.task != "regression" and not np.isin(label, np.arange(classes)).all():
            raise RecipeError(
                f"the label holds values that are no class of task {options.task} (0 to {classes - 1}): for numbers "
                "set task: regression in the job's recipe params, for more classes task: multiclass and classes"
            )
        return label

    def _no_training(self) -> NoReturn:
        raise RecipeError("trees grow by rounds of sums over all sites, and no site trains a model of its own")


def _answers(model: Tensors, features: npt.NDArray[np.float64], options: TreeOptions) -> npt.NDArray[np.float64]:
    """Return what the model says of rows float64[n, c]; raises `RecipeError` for a model of other parameters."""
    trees = trees_in(model, options)
    said, (mean, scale) = trees.outputs(trees.bins.places(features)), trees.label
    if options.task == "regression":
        return np.asarray(said[:, 0] * scale + mean, np.float64)
    return np.asarray(sigmoid(said[:, 0]) if options.task == "binary" else softmax(said), np.float64)


def trees_in(model: Tensors, options: TreeOptions) -> Trees:
    """Return the trees that a model holds; raises `RecipeError` for a model of other parameters."""
    ends = np.cumsum(model[_SIZES])
    borders = np.split(np.asarray(model[_BORDERS], np.float64), ends[:-1]) if ends.size else []
    mean, scale = map(float, model[_LABEL])
    bins = Bins.of(columns_of(model), borders)
    start, values = np.asarray(model[_START], np.float64), np.asarray(model[_VALUES], np.float64)
    trees = Trees(bins, start, (mean, scale), np.asarray(model[_SPLITS], np.int64), values)
    try:
        check_trees(trees, options)
    except Refusal as refusal:
        raise RecipeError(refusal.detail) from refusal
    return trees


RECIPE: Final = TreesRecipe()
