"""Everything that a training recipe of your own needs (see examples/own-recipe).

The types of `undersong.recipes.protocol`, the roles of tensors, and the sums that each evaluation layout is made of.
"""

from undersong.recipes.protocol import (
    Array,
    Column,
    Context,
    Dataset,
    DataShape,
    Model,
    Params,
    Progress,
    Recipe,
    RecipeError,
    RecipeSpec,
    RecordNoise,
    Tensors,
    TrainResult,
    record_noise,
    source_digest,
)
from undersong.shared.learning.metrics import binary_sums, evaluation_layout, multiclass_sums, regression_sums
from undersong.shared.learning.tensors import Schema
from undersong.shared.wire.profiles import Task

__all__ = [
    "Array",
    "Column",
    "Context",
    "DataShape",
    "Dataset",
    "Model",
    "Params",
    "Progress",
    "Recipe",
    "RecipeError",
    "RecipeSpec",
    "RecordNoise",
    "Schema",
    "Task",
    "Tensors",
    "TrainResult",
    "binary_sums",
    "evaluation_layout",
    "multiclass_sums",
    "record_noise",
    "regression_sums",
    "source_digest",
]
