"""What a training recipe is: the types to write one of your own (see examples/own-recipe)."""

from recipes.protocol import *  # noqa: F403
