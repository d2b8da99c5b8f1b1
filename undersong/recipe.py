"""Everything that a training recipe of your own needs (see docs/own-model.md).

`TorchRecipe`, `NumpyRecipe` and `SklearnRecipe` make a recipe of a model. The types of `undersong.recipes.protocol`,
the roles of tensors, and the sums of each evaluation layout are for recipes that write every method themselves.
"""

from undersong.recipes.flower import FlowerRecipe
from undersong.recipes.learner import ModelShape
from undersong.recipes.numpy_recipe import NumpyRecipe
from undersong.recipes.pretrained import Pretrained
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
from undersong.recipes.sklearn_recipe import SklearnRecipe
from undersong.recipes.supervised import IMAGE, TEXT
from undersong.recipes.torch_recipe import TorchRecipe
from undersong.shared.learning.metrics import binary_sums, evaluation_layout, multiclass_sums, regression_sums
from undersong.shared.learning.tensors import Schema
from undersong.shared.wire.profiles import Task

__all__ = [
    "IMAGE",
    "TEXT",
    "Array",
    "Column",
    "Context",
    "DataShape",
    "Dataset",
    "FlowerRecipe",
    "Model",
    "ModelShape",
    "NumpyRecipe",
    "Params",
    "Pretrained",
    "Progress",
    "Recipe",
    "RecipeError",
    "RecipeSpec",
    "RecordNoise",
    "Schema",
    "SklearnRecipe",
    "Task",
    "Tensors",
    "TorchRecipe",
    "TrainResult",
    "binary_sums",
    "evaluation_layout",
    "multiclass_sums",
    "record_noise",
    "regression_sums",
    "source_digest",
]
