"""What a job's model predicts: the layout of its evaluation sums, and whether the sites' labels fit it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from shared.learning.metrics import LayoutUnknown, classes_in, evaluation_layout
from shared.wire.profiles import Column, RecipeSpec, Task

Report = Callable[[str, str], None]


def check_evaluation(
    recipe: RecipeSpec, params: Mapping[str, Any], labels: Iterable[tuple[str, Column]], error: Report
) -> None:
    """Report what keeps this job's model from being evaluated; `labels` are label columns with their site's name."""
    try:
        layout = evaluation_layout(recipe, params)
    except LayoutUnknown as unknown:
        error("/recipe/params", unknown.detail)
        return
    for site, column in labels:
        if (problem := _misfit(layout, column)) is not None:
            error("/recipe/params", f"at {site} {problem}")
            return


def _misfit(layout: str, column: Column) -> str | None:
    """What is wrong with a label column for this layout, and the remedy; None where it fits."""
    if column.type not in ("number", "category"):
        return f"the label {column.name!r} is of type {column.type}; a label is a number or a category"
    count = len(column.categories or ())
    if column.type == "number":
        return None
    if layout == Task.REGRESSION:
        return f"the label {column.name!r} is a category; task regression needs a number: choose another task or label"
    known = 2 if layout == Task.BINARY else classes_in(layout)
    if count <= known:
        return None
    return (
        f"the label {column.name!r} has {count} categories, and this job's model {known}: "
        f"set task: multiclass and classes: {count} where the recipe has these parameters"
    )
