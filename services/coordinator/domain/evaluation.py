"""What a job's model predicts: the layout of its evaluation sums, and whether the sites' labels fit it."""

from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any, Final

import numpy as np

from undersong.services.coordinator.domain.findings import Findings
from undersong.services.coordinator.domain.parts import CohortPart, DataPart, EvaluationPart
from undersong.shared.learning.metrics import (
    BETTER_BELOW,
    COUNTS,
    LEAST_CLASS,
    LEAST_POSITIVES,
    MEANS,
    LayoutUnknown,
    Reading,
    Sums,
    classes_in,
    evaluation_layout,
    metric_names,
    metrics_of,
    of_all,
    setting,
    sums_of_groups,
)
from undersong.shared.names import hint
from undersong.shared.statistics.suppression import hidden_counts
from undersong.shared.wire.profiles import Column, DatasetSchema, RecipeSpec, Task


def check_evaluation(
    recipe: RecipeSpec, params: Mapping[str, Any], label: Column | None, at_sites: Mapping[str, Column], found: Findings
) -> None:
    """Check that the label fits what this job's model predicts.

    `label` is as all sites agreed on it, `at_sites` as each declares it, with the kind of numbers that it holds there.
    """
    try:
        layout = evaluation_layout(recipe, params)
    except LayoutUnknown as unknown:
        found.error("/recipe/params", unknown.detail)
        return
    _check_weights(recipe, params, layout, found)
    if label is None or not _about_label(layout):
        return
    if (problem := _misfit(layout, label)) is not None:
        found.error("/recipe/params", f"at all sites {problem}")
        return
    if label.type != "number":
        _warn_of_spare_classes(layout, label, found)
        return
    wrong = {site: fault for site, column in at_sites.items() if (fault := _wrong_numbers(layout, column)) is not None}
    if not wrong:
        return
    said = f"at {', '.join(wrong)} the label {label.name!r} {next(iter(wrong.values()))}"
    if chosen := {"task", "classes"} & _parameters(recipe):
        found.error("/recipe/params", f"{said}; {_remedy(layout, chosen)}")
    else:
        found.warn("/recipe/name", f"{said}, and the recipe {recipe.name!r} is for task {recipe.task}")


def reading_of(part: EvaluationPart, data: DataPart, recipe: RecipeSpec, params: Mapping[str, Any]) -> Reading:
    """Return what a job wants to know from its evaluations' sums."""
    quantile = setting(recipe, params, "quantile") if setting(recipe, params, "loss") == "quantile" else None
    other_rows = part.part == "validation" or data.fold is not None
    return Reading(part.threshold, other_rows, float(quantile) if isinstance(quantile, int | float) else None)


def _check_weights(recipe: RecipeSpec, params: Mapping[str, Any], layout: str, found: Findings) -> None:
    """Check that the weights of classes, where the recipe has them, are as many as the classes."""
    weights = params.get("class_weights") if "class_weights" in _parameters(recipe) else None
    if not weights or not isinstance(weights, list) or not _has_classes(layout):
        return
    classes = 2 if layout == Task.BINARY else classes_in(layout)
    if len(weights) != classes:
        said = f"{len(weights)} numbers for {classes} classes: give one for each class, in their order"
        found.error("/recipe/params/class_weights", said)


def _about_label(layout: str) -> bool:
    """Return whether the layout says what labels are; else they are the recipe's own matter, or there are none."""
    return layout != Task.NEXT_TOKEN and not layout.startswith(MEANS)


def _has_classes(layout: str) -> bool:
    return layout not in (Task.REGRESSION, Task.SURVIVAL) and _about_label(layout)


def _parameters(recipe: RecipeSpec) -> set[str]:
    properties = recipe.params_schema.get("properties")
    return set(properties) if isinstance(properties, dict) else set()


def _wrong_numbers(layout: str, column: Column) -> str | None:
    """Return what is wrong with the numbers of a label for this layout; None where they fit or are not known."""
    if layout == Task.BINARY and column.numbers in ("whole", "real"):
        return "holds other numbers than 0 and 1, which are the classes of task binary"
    if layout != Task.BINARY and _has_classes(layout) and column.numbers == "real":
        return f"holds numbers that are no classes (whole numbers from 0 to {classes_in(layout) - 1})"
    return None


def check_event(
    recipe: RecipeSpec,
    params: Mapping[str, Any],
    features: Sequence[Column],
    at_sites: Mapping[str, Column],
    listed: Collection[str],
    found: Findings,
) -> None:
    """Check that a job with task survival reads the column that says whether the event came.

    `at_sites` is that column as each site declares it, with the kind of numbers that it holds there; of the columns in
    `listed` the job itself says the order of the categories.
    """
    name = event_of(recipe, params)
    if name is None:
        return
    path, names = "/recipe/params/event", [column.name for column in features]
    if name not in names:
        said = f"task survival needs the column {name!r}, which is 1 where the event came and 0 where the time was cut"
        found.error(path, f"{said} short, among the features{hint(name, names)}: list it there, or name another column")
        return
    column = features[names.index(name)]
    if column.type == "category" and len(column.categories or ()) != 2:
        found.error(path, f"the column {name!r} must have two categories, first that of times cut short, or be 0 and 1")
    elif column.type == "category" and name not in listed:
        cut, came = column.categories or ()
        found.warn(
            path,
            f"{came!r} in {name!r} is taken for the event, and {cut!r} for a time cut short, in the order that sites "
            f"list them in: name both under data.categories.{name}, that of times cut short first, to say it yourself",
        )
    elif column.type not in ("number", "category"):
        found.error(path, f"the column {name!r} is of type {column.type}: it must be a number, 0 or 1, or a category")
    elif wrong := [site for site, own in at_sites.items() if own.type == "number" and own.numbers in ("whole", "real")]:
        said = f"at {', '.join(wrong)} the column {name!r} holds other numbers than 0 and 1"
        found.error(path, f"{said}: map its values under values in each site's datasets.yaml")


def event_of(recipe: RecipeSpec, params: Mapping[str, Any]) -> str | None:
    """Return the column that says whether the event came, of a job with task survival; else None."""
    try:
        layout = evaluation_layout(recipe, params)
    except LayoutUnknown:
        return None  # another check names it
    return str(setting(recipe, params, "event")) if layout == Task.SURVIVAL else None


def _remedy(layout: str, chosen: Set[str]) -> str:
    ways = []
    if "task" in chosen:
        ways.append("set task: regression to predict a number")
        ways += ["task: multiclass and classes for more classes"] if layout == Task.BINARY else []
    return " or ".join([*ways, "map its values to classes under values in each site's datasets.yaml"])


def check_rows(
    part: EvaluationPart | None,
    recipe: RecipeSpec,
    params: Mapping[str, Any],
    counts: Sequence[int | None],
    found: Findings,
) -> None:
    """Warn where the sites' rows, as far as they tell how many there are, cannot be enough for the job's metrics."""
    rows = [count for count in counts if count is not None]
    if part is None or part.every == 0 or not rows or len(rows) < len(counts):
        return
    try:
        layout = evaluation_layout(recipe, params)
    except LayoutUnknown:
        return  # another check names it
    each, classes = LEAST_POSITIVES, 2
    if not _has_classes(layout):
        return
    if layout != Task.BINARY:
        each, classes = LEAST_CLASS, classes_in(layout)
    if sum(rows) < each * classes:
        said = f"the sites have {sum(rows):,} rows together, and hold out only some of them for evaluations"
        found.warn(
            "/evaluation", f"{said}: metrics say little from fewer than {each} rows of each of {classes} classes"
        )


def check_no_enough(cohort: CohortPart | None, found: Findings) -> None:
    """Check that a job without rounds of training does not say when they end."""
    if cohort is not None and cohort.enough is not None:
        found.error("/cohort/enough", "ends rounds of training, and this job has none: leave it out")


def check_kind(document: Mapping[str, Any], parsed: Mapping[str, Any], found: Findings) -> None:
    """Check that the document has the fields of its kind: rounds to train, or a version to evaluate."""
    kind = parsed.get("kind")
    if kind == "train" and parsed.get("rounds") == 0:
        given = "rounds" in document
        found.error("/rounds", _NO_ROUNDS if given else "this field is required")
    if kind != "evaluate":
        return
    model = parsed.get("model")
    if model is not None and model.version_id is None:
        found.error("/model/version_id", _NO_VERSION)
    if parsed.get("rounds"):
        found.error("/rounds", "an evaluation trains nothing: leave it out, or set kind: train")
    for name in ("strategy", "update", "privacy"):
        if document.get(name):
            found.error(f"/{name}", "is for jobs that train, and this one only evaluates: leave it out")
    data, evaluation = parsed.get("data"), parsed.get("evaluation")
    check_no_enough(parsed.get("cohort"), found)
    if data is not None and data.fold is not None:
        found.error("/data/fold", "is for jobs that train, and this one only evaluates: leave it out")
    for name in ("every", "early_stop"):
        if evaluation is not None and name in evaluation.model_fields_set:
            found.error(f"/evaluation/{name}", "is for jobs that train: this one evaluates once")


def group_metrics(
    layout: str, sums: Sums, names: Sequence[str], least: int, reading: Reading
) -> dict[str, dict[str, float] | None]:
    """Return the metrics of each group by its name; None for those of fewer than `least` rows, and for others that
    would give them away. Rows without a group are one more, which is not told.
    """
    base, parts = of_all(layout)[0], sums_of_groups(layout, sums)
    rows = np.append(parts[:, 0], max(0.0, float(sums[0] - parts[:, 0].sum())))
    hidden = hidden_counts(np.rint(rows), least)
    return {
        name: None if masked else metrics_of(base, own, reading)
        for name, masked, own in zip(names, hidden, parts, strict=False)
    }


def spread(by_site: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return how each metric differs between the sites that tell theirs: mean, deviation, and the worst site's.

    The mean counts each site once. Metrics that fewer than two sites have are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    names = dict.fromkeys(name for told in by_site.values() for name in told if name not in COUNTS)
    for name in names:
        values = {site: told[name] for site, told in by_site.items() if name in told}
        if len(values) < 2:
            continue
        sign = -1 if name in BETTER_BELOW else 1
        worst = min((sign * value, site) for site, value in values.items())[1]
        largest = max(map(abs, values.values())) or 1.0  # what a site tells has a square that may not be a number
        shares = np.array(list(values.values())) / largest
        found[name] = {
            "mean": float(shares.mean() * largest),
            "deviation": float(shares.std() * largest),
            "worst": values[worst],
            "worst_site": worst,
        }
    return found


_NO_VERSION: Final = "an evaluation needs the id of the version that it evaluates; undersong model show NAME lists them"
_NO_ROUNDS: Final = "a job that trains has at least one round; to evaluate a version, set kind: evaluate"


def check_part(
    evaluation: EvaluationPart | None,
    data: DataPart,
    kind: str | None,
    schemas: Sequence[DatasetSchema],
    found: Findings,
) -> None:
    """Check that the sites have the rows that a job evaluates on; sites that do not tell their parts are not judged."""
    fold, part = data.fold, evaluation.part if evaluation is not None else None
    if fold is not None and fold.number > fold.of:
        found.error("/data/fold/number", f"there is no fold {fold.number} of {fold.of}: folds are counted from 1")
    if part == "all" and kind == "train":
        found.error("/evaluation/part", "rows that are trained on say nothing of a model: use test or validation")
    evaluates = kind == "evaluate" or evaluation is None or evaluation.every > 0
    wanted = part or ("test" if fold is None else "all")
    told = [schema for schema in schemas if schema.parts]
    if wanted == "all" or not evaluates or len(told) < len(schemas) or (wanted == "validation" and fold is not None):
        return
    if told and all(wanted not in schema.parts for schema in told):
        found.error(
            "/evaluation/part",
            f"no site's data set {data.dataset!r} has rows for {wanted}: declare them under split in datasets.yaml, or "
            "evaluate on another part",
        )


def check_watched(
    part: EvaluationPart | None, data: DataPart, recipe: RecipeSpec, params: Mapping[str, Any], found: Findings
) -> None:
    """Check that evaluations have the metric that an early stop watches, and scores where a threshold is declared."""
    if part is None:
        return
    try:
        layout = evaluation_layout(recipe, params)
    except LayoutUnknown:
        return  # another check names it
    if part.threshold is not None and layout != Task.BINARY:
        found.error("/evaluation/threshold", "is for task binary, whose rows have one score: leave it out")
    if part.early_stop is None:
        return
    names = metric_names(layout, reading_of(part, data, recipe, params))
    metric = part.early_stop.metric
    if metric not in names:
        found.error("/evaluation/early_stop/metric", f"no evaluation of this job has {metric!r}{hint(metric, names)}")
    elif part.early_stop.mode == "max" and metric in BETTER_BELOW:
        found.warn("/evaluation/early_stop/mode", f"{metric!r} is better the smaller it is, and mode is max")


def _warn_of_spare_classes(layout: str, label: Column, found: Findings) -> None:
    """Warn of classes that no category of the label stands for: a model learns, slowly, that they never come."""
    count = len(label.categories or ())
    known = 2 if layout == Task.BINARY else classes_in(layout)
    if 2 <= count < known:
        said = f"the label {label.name!r} has {count} categories, and this job's model {known} classes"
        found.warn("/recipe/params", f"{said}: set classes: {count}, unless more are to come")


def _misfit(layout: str, column: Column) -> str | None:
    """Return what is wrong with a label column for this layout, and the remedy; None where it fits."""
    if column.type not in ("number", "category"):
        return f"the label {column.name!r} is of type {column.type}; a label is a number or a category"
    count = len(column.categories or ())
    if column.type == "number":
        return None
    if not _has_classes(layout):
        return f"the label {column.name!r} is a category; task {layout} needs a number: choose another task or label"
    known = 2 if layout == Task.BINARY else classes_in(layout)
    if count <= known:
        return None
    return (
        f"the label {column.name!r} has {count} categories, and this job's model {known}: "
        f"set task: multiclass and classes: {count} where the recipe has these parameters"
    )
