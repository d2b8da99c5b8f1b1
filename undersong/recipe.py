"""What a training recipe is: the types to write one of your own (see examples/own-recipe)."""

from recipes.protocol import (
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
    Tensors,
    TrainResult,
    source_digest,
)

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
    "Tensors",
    "TrainResult",
    "source_digest",
]
