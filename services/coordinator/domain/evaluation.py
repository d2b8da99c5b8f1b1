"""What a job's model predicts: the layout of its evaluation sums, and whether the sites' labels fit it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from services.coordinator.domain.findings import Findings
from services.coordinator.domain.spec import EvaluationPart
from shared.learning.metrics import BETTER_BELOW, LayoutUnknown, classes_in, evaluation_layout, metric_names
from shared.names import hint
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


def check_early_stop(
    part: EvaluationPart | None, recipe: RecipeSpec, params: Mapping[str, Any], found: Findings
) -> None:
    """Check that an early stop watches a metric that the job's evaluations have."""
    if part is None or part.early_stop is None:
        return
    try:
        names = metric_names(evaluation_layout(recipe, params))
    except LayoutUnknown:
        return  # another check names it
    metric = part.early_stop.metric
    if metric not in names:
        found.error("/evaluation/early_stop/metric", f"no evaluation of this job has {metric!r}{hint(metric, names)}")
    elif part.early_stop.mode == "max" and metric in BETTER_BELOW:
        found.warn("/evaluation/early_stop/mode", f"{metric!r} is better the smaller it is, and mode is max")


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
