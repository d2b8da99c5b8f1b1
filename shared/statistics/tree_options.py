"""Parameters of boosted trees: one document for the recipe's schema, the coordinator's rule and a site's policy.

Imports no numpy: an agent judges a round's parameters before it loads any.
"""

from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from undersong.shared.errors import Invalid
from undersong.shared.wire.forms import Document, Name

MOST_TREES: Final = 1000
MOST_NODES: Final = 100_000
"""Nodes of all trees: they travel in each round's manifest."""
Number = Annotated[float, Field(ge=-1e15, le=1e15)]


class TreesInvalid(Invalid):
    """These are no parameters of trees, or no sums or trees that follow from them."""


class TreeOptions(Document):
    """How trees grow. A round of a job is one tree (with several classes one for each)."""

    task: Literal["binary", "multiclass", "regression"] = Field(
        default="binary", description="What the label is: one of two classes, one of several, or a number."
    )
    classes: int = Field(default=2, ge=2, le=100, description="Classes of the label with task multiclass.")
    depth: int = Field(default=4, ge=1, le=8, description="Levels of splits in a tree; each takes a round of sums.")
    learning_rate: float = Field(default=0.3, gt=0, le=1, description="Factor of each tree's values.")
    ridge: float = Field(default=1.0, ge=0, le=1e6, description="L2 penalty on the values of leaves.")
    min_rows: int = Field(
        default=20,
        ge=1,
        le=10**6,
        description="Rows of all sites that each side of a split has at least; sites' policies set a least number.",
    )
    min_weight: float = Field(
        default=1.0, ge=0, le=1e9, description="Sum of second derivatives that each side of a split has at least."
    )
    min_gain: float = Field(default=0.0, ge=0, le=1e9, description="What a split must gain at least.")
    bins: int = Field(
        default=64, ge=2, le=256, description="Intervals of a number column, besides one for missing values."
    )
    ranges: dict[Name, tuple[Number, Number]] = Field(
        default={},
        description="Lowest and highest value of each number, and of a number that is predicted: intervals are equal "
        "parts of them, and no counts by size are asked for first.",
    )

    @property
    def outputs(self) -> int:
        """Trees of a round: one for each class with task multiclass, else one."""
        return self.classes if self.task == "multiclass" else 1

    @property
    def inner(self) -> int:
        """Nodes of a tree that can be split."""
        return int(2**self.depth - 1)

    @property
    def nodes(self) -> int:
        """Nodes of a tree, in the order of levels: node i has the children 2 i + 1 and 2 i + 2."""
        return int(2 ** (self.depth + 1) - 1)

    def most_rounds(self, trees: int) -> int:
        """Return how many rounds of sums a job with so many rounds of trees takes at most."""
        return trees * self.depth + (0 if self.ranges else 1)

    def fault(self, trees: int) -> str | None:
        """Return why a job cannot have so many rounds of trees; None where it can."""
        if trees > MOST_TREES:
            return f"{trees} rounds of trees, more than {MOST_TREES}: ask for fewer"
        if trees * self.outputs * self.nodes > MOST_NODES:
            return (
                f"{trees * self.outputs} trees of depth {self.depth} have more than {MOST_NODES:,} nodes together: ask "
                "for fewer rounds or less depth"
            )
        return None


def options_of(params: object) -> TreeOptions:
    """Return the parameters; raises `TreesInvalid`."""
    try:
        return TreeOptions.model_validate(params)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise TreesInvalid(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
