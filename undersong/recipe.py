"""What a training recipe is: the types to write one of your own (see examples/own-recipe)."""

from recipes.protocol import (
    Context,
    Dataset,
    DataShape,
    Params,
    Progress,
    Recipe,
    RecipeError,
    Tensors,
    TrainResult,
    source_digest,
)

__all__ = [
    "Context",
    "DataShape",
    "Dataset",
    "Params",
    "Progress",
    "Recipe",
    "RecipeError",
    "Tensors",
    "TrainResult",
    "source_digest",
]
