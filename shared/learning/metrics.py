"""Evaluation as sums: what a site adds up, and what the federation's totals say.

| layout | sums |
| --- | --- |
| binary | n, loss, tp, fp, tn, fn, then for positives and for negatives: rows, places and squared places by score bin |
| multiclass:C | n, loss, correct, confusion[C, C] (row: truth, column: prediction) |
| regression | n, squared error, absolute error, y, y squared, error, relative error, rows whose label is not 0 |
| next_token | rows, loss of all places, places, places said right, places whose token is known |
| survival | n, negative partial log-likelihood, events, concordant pairs, pairs compared |
| means:NAME,… | n, then n times each of the means that a recipe names |
| LAYOUT by K | the sums of LAYOUT over all rows, then over the rows of each of K groups |

A score is the predicted probability of the positive class (see `undersong.shared.learning.score_bins` for bins and
AUC, `undersong.shared.learning.score_curves` for what else follows from them). An error is prediction minus label, a
relative one its size over the label's.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.shared.errors import Invalid
from undersong.shared.learning import score_bins, score_curves
from undersong.shared.wire.profiles import RecipeSpec, Task

Sums = npt.NDArray[np.float64]
BINARY_HEAD: Final = 6
"""How many sums of the layout binary come before those of the score bins."""
LEAST_POSITIVES: Final = 50
"""Rows of each class from which an AUC says something about a model: below, chance moves it by a tenth."""
LEAST_CLASS: Final = 20
"""Rows of a class from which its recall says something: below, its standard error can exceed a tenth."""
COUNTS: Final = frozenset(
    {"examples", "positives", "rare_classes", "threshold", "best_threshold", "mape_rows", "tokens", "events", "pairs"}
)
"""Metrics that count rows, classes, events or pairs or say where decisions are made, and judge no model."""
MOST_RELATIVE: Final = 1000.0
"""What a relative error counts at most: 100,000 %."""
REGRESSION_LENGTH: Final = 8
NEXT_TOKEN_LENGTH: Final = 5
SURVIVAL_LENGTH: Final = 5
_MOST_EXPONENT: Final = 700.0  # of which the exponential is finite
MOST_GROUPS: Final = 100
_EVALUATED: Final = (Task.BINARY, Task.MULTICLASS, Task.REGRESSION, Task.NEXT_TOKEN, Task.SURVIVAL)
_ROUNDING: Final = 1e-6
_LARGEST: Final = 1e100  # its square is finite
SHARES: Final = frozenset(
    {
        "accuracy",
        "balanced_accuracy",
        "precision",
        "recall",
        "specificity",
        "f1",
        "best_f1",
        "auc",
        "pr_auc",
        "ece",
        "known",
        "concordance",
    }
)
"""Metrics between 0 and 1."""
BETTER_BELOW: Final = frozenset(
    {"loss", "mse", "rmse", "mae", "mape", "quantile_loss", "ece", "bits_per_token", "perplexity"}
)
"""Metrics that are better the smaller they are."""
MEANS: Final = "means:"
"""How the layout of a recipe that names its own metrics begins."""
MOST_LAYOUT: Final = 56
"""Characters of such a layout: an update's header has room for 64, and groups add to them."""
_METRIC: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,31}")
_MULTICLASS: Final = re.compile(r"multiclass:([1-9][0-9]{0,3})")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a job wants to know from its evaluation's sums.

    threshold: the score from which a row is said to be positive; None: one half. best_threshold: whether to tell the
    one with the best F1 too, which says something of other rows than those. quantile: what predictions are of the
    label, for the quantile loss.
    """

    threshold: float | None = None
    best_threshold: bool = False
    quantile: float | None = None


PLAIN: Final = Reading()


class LayoutUnknown(Invalid):
    """No evaluation layout has this name, or the sums do not fit it."""


class Unmeasurable(Invalid):
    """The scores or labels cannot be evaluated."""


def layout_of(task: Task, classes: int | None = None) -> str:
    """Return the layout's name for a task; raises `LayoutUnknown` for multiclass without a number of classes."""
    if task is not Task.MULTICLASS:
        return str(task)
    if classes is None:
        raise LayoutUnknown(
            "a multiclass recipe must say how many classes it has, by `classes` in its spec or a parameter `classes`"
        )
    return f"multiclass:{classes}"


def evaluation_layout(spec: RecipeSpec, params: Mapping[str, Any]) -> str:
    """Return the layout of a recipe's evaluation sums in a job with these parameters; raises `LayoutUnknown`.

    A recipe whose parameter schema has the properties `task` or `classes` lets the job decide them; a parameter that is
    left out has its schema's `default`, and without one the value in the spec.
    """
    if spec.metrics:
        return by_means(spec.metrics)
    task, classes = setting(spec, params, "task"), setting(spec, params, "classes")
    if task not in _EVALUATED:
        raise LayoutUnknown(f"task {task!r} has no evaluation: it is {_listed(_EVALUATED)}")
    if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int) or not 2 <= classes <= 1000):
        raise LayoutUnknown(f"classes is {classes!r}, it must be a whole number from 2 to 1000")
    return layout_of(Task(task), classes)


def setting(spec: RecipeSpec, params: Mapping[str, Any], name: str) -> Any:
    """Return a parameter as the job sets it, else its schema's default, else the spec's own value, else None."""
    properties = spec.params_schema.get("properties")
    known = properties.get(name) if isinstance(properties, dict) else None
    if known is None:
        return getattr(spec, name, None)
    default = known.get("default") if isinstance(known, dict) else None
    return params.get(name, getattr(spec, name, None) if default is None else default)


def by_means(names: Sequence[str]) -> str:
    """Return the layout of means of these names; raises `LayoutUnknown` for names that no metrics can have."""
    layout = MEANS + ",".join(names)
    means_in(layout)
    return layout


def by_groups(layout: str, groups: int) -> str:
    """Return the layout in which each of these groups has its own sums too; the layout itself without groups."""
    return f"{layout} by {groups}" if groups else layout


def of_all(layout: str) -> tuple[str, int]:
    """Return the layout of all rows together, and how many groups have sums of their own beside them."""
    base, _, groups = layout.partition(" by ")
    if groups and (not groups.isdecimal() or not 1 <= int(groups) <= MOST_GROUPS):
        raise LayoutUnknown(f"layout {layout!r} is unknown")
    return base, int(groups or 0)


def layout_length(layout: str) -> int:
    """Return how many sums the layout has; raises `LayoutUnknown`."""
    layout, groups = of_all(layout)
    if groups:
        return (1 + groups) * layout_length(layout)
    if layout == Task.BINARY:
        return BINARY_HEAD + score_bins.LENGTH
    if layout == Task.REGRESSION:
        return REGRESSION_LENGTH
    if layout == Task.NEXT_TOKEN:
        return NEXT_TOKEN_LENGTH
    if layout == Task.SURVIVAL:
        return SURVIVAL_LENGTH
    if layout.startswith(MEANS):
        return 1 + len(means_in(layout))
    return 3 + classes_in(layout) ** 2


def check_sums(layout: str, sums: Sums) -> None:
    """Raise `LayoutUnknown` unless `sums` is as long as the layout, and every sum finite."""
    if sums.shape != (layout_length(layout),):
        raise LayoutUnknown(
            f"the evaluation has {sums.size} sums, and its layout {layout} {layout_length(layout)}: the layout comes "
            "from the recipe's spec (task, classes) and from the parameters task and classes, where it has them"
        )
    if not np.isfinite(sums).all():
        raise LayoutUnknown("an evaluation sum is not a finite number")


def binary_sums(labels: npt.NDArray[np.floating | np.integer], scores: npt.NDArray[np.floating]) -> Sums:
    """Return sums over rows from labels 0 or 1 and scores in 0..1, both [n]; raises `Unmeasurable` for other values."""
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise Unmeasurable(
            f"labels {list(labels.shape)} and scores {list(scores.shape)} must be two vectors of one length"
        )
    _check(scores, 0.0, 1.0, "a score is a probability")
    if not np.isin(labels, (0, 1)).all():
        raise Unmeasurable("a label is neither 0 nor 1")
    truth, said = labels.astype(bool), scores >= 0.5
    sure = np.clip(scores, 1e-12, 1 - 1e-12)
    loss = -np.log(np.where(truth, sure, 1 - sure)).sum()
    cells = [(truth & said).sum(), (~truth & said).sum(), (~truth & ~said).sum(), (truth & ~said).sum()]
    return np.concatenate([[labels.size, loss], cells, score_bins.sums(truth, scores)]).astype(np.float64)


def multiclass_sums(labels: npt.NDArray[np.integer], probabilities: npt.NDArray[np.floating]) -> Sums:
    """Return sums over rows from labels 0..C-1 [n] and probabilities [n, C]; raises `Unmeasurable` for other values."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise Unmeasurable(f"labels {list(labels.shape)} and probabilities {list(probabilities.shape)} do not fit")
    _check(probabilities, 0.0, 1.0, "a score is a probability")
    classes = probabilities.shape[1]
    if not np.isin(labels, np.arange(classes)).all():
        raise Unmeasurable(f"a label is no class from 0 to {classes - 1}")
    truth, said = labels.astype(np.int64), probabilities.argmax(axis=1)
    loss = -np.log(np.clip(probabilities[np.arange(truth.size), truth], 1e-12, None)).sum()
    confusion = np.bincount(truth * classes + said, minlength=classes * classes)
    return np.concatenate([[truth.size, loss, (said == truth).sum()], confusion]).astype(np.float64)


def next_token_sums(truth: npt.NDArray[np.integer], probabilities: npt.NDArray[np.floating], first_known: int) -> Sums:
    """Return sums over texts' places from the tokens that follow, [n, places], and probabilities [n, places, tokens].

    A negative token is none: the text has ended. A token below `first_known` is one that no vocabulary knows, and is
    never said right. The number of rows is left 0: a text may have several rows of places. Raises `Unmeasurable`.
    """
    truth, probabilities = np.asarray(truth), np.asarray(probabilities, np.float64)
    if probabilities.ndim != 3 or truth.shape != probabilities.shape[:2]:
        raise Unmeasurable(f"tokens {list(truth.shape)} and probabilities {list(probabilities.shape)} do not fit")
    there = truth >= 0
    wanted, said = truth[there].astype(np.int64), probabilities[there]
    _check(said, 0.0, 1.0, "a score is a probability")
    if wanted.size and wanted.max() >= said.shape[1]:
        raise Unmeasurable(f"a token is no number from 0 to {said.shape[1] - 1}")
    loss = -np.log(np.clip(said[np.arange(wanted.size), wanted], 1e-12, None)).sum()
    known = wanted >= first_known
    right = known & (said.argmax(axis=1) == wanted)
    return np.array([0, loss, wanted.size, right.sum(), known.sum()], np.float64)


def regression_sums(labels: npt.NDArray[np.floating], predictions: npt.NDArray[np.floating]) -> Sums:
    """Return sums over rows from labels and predictions, both [n]; raises `Unmeasurable` for numbers not finite."""
    labels, predictions = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise Unmeasurable(f"labels {list(labels.shape)} and predictions {list(predictions.shape)} do not fit")
    _check(labels, -_LARGEST, _LARGEST, "a label")
    _check(predictions, -_LARGEST, _LARGEST, "a prediction")
    error = predictions - labels
    relative = np.abs(error[labels != 0] / labels[labels != 0])
    squares = (error**2).sum(), np.abs(error).sum(), labels.sum(), (labels**2).sum()
    return np.array(
        [labels.size, *squares, error.sum(), np.minimum(relative, MOST_RELATIVE).sum(), relative.size], np.float64
    )


def _check(values: npt.NDArray[np.floating], least: float, most: float, what: str) -> None:
    """Raise `Unmeasurable` for a number that is not finite or outside its range, rounding apart."""
    if not np.isfinite(values).all():
        raise Unmeasurable(
            f"{what}, and one of them is not a finite number: the model has diverged, or a value is missing"
        )
    if values.size and not least - _ROUNDING <= values.min() <= values.max() <= most + _ROUNDING:
        raise Unmeasurable(
            f"{what} between {least:g} and {most:g}; they range from {values.min():g} to {values.max():g}"
        )


def metrics_of(layout: str, sums: Sums, reading: Reading = PLAIN) -> dict[str, float]:
    """Named metrics from summed sums; those that are not defined (no positives, say) are left out."""
    check_sums(layout, sums)
    if sums[0] <= 0:
        return {"examples": 0.0}
    layout, groups = of_all(layout)
    if groups:
        return metrics_of(layout, sums[: layout_length(layout)], reading)
    if layout == Task.BINARY:
        return _binary(sums, reading)
    if layout == Task.REGRESSION:
        return _regression(sums, reading)
    if layout == Task.NEXT_TOKEN:
        return _next_token(sums)
    if layout == Task.SURVIVAL:
        return _survival(sums)
    if layout.startswith(MEANS):
        named = zip(means_in(layout), sums[1:] / sums[0], strict=True)
        return {"examples": float(sums[0]), **{name: float(value) for name, value in named}}
    return _multiclass(sums, classes_in(layout))


def sums_of_groups(layout: str, sums: Sums) -> Sums:
    """Return each group's sums, float64[groups, length of the layout of all rows]; raises `LayoutUnknown`."""
    check_sums(layout, sums)
    return sums.reshape(1 + of_all(layout)[1], -1)[1:]


def curves_of(layout: str, sums: Sums, least: int) -> dict[str, list[list[float]]]:
    """Return the curves of an evaluation with binary labels, each point over at least `least` rows; else nothing.

    calibration: [mean score, share of positives, rows]. precision_recall: [threshold, recall, precision].
    """
    check_sums(layout, sums)
    if of_all(layout)[0] != Task.BINARY or sums[0] <= 0:
        return {}
    scored = sums[BINARY_HEAD : layout_length(Task.BINARY)]
    found: dict[str, Sequence[tuple[float, ...]]] = {
        "calibration": score_curves.calibration(scored, least),
        "precision_recall": score_curves.precision_recall(scored, least),
    }
    return {name: [[float(value) for value in each] for each in points] for name, points in found.items() if points}


def metric_names(layout: str, reading: Reading = PLAIN) -> list[str]:
    """Return the metrics of an evaluation in this layout that can be watched; raises `LayoutUnknown`.

    Bounds of others, and counts of classes and positives, are left out.
    """
    sums = np.ones(layout_length(layout))
    sums[0] = 2.0  # two rows with different labels, so that a regression has a spread
    counts = COUNTS - {"examples"}
    return sorted(
        name for name in metrics_of(layout, sums, reading) if not name.endswith("_error") and name not in counts
    )


def cautions_of(metrics: Mapping[str, float]) -> list[str]:
    """Return what keeps these metrics from saying much about a model: too few rows, or too few of a class."""
    n = metrics.get("examples", 0.0)
    if n <= 0:
        return ["no rows were evaluated: the sites hold out none (test_fraction in datasets.yaml)"] if metrics else []
    if metrics.get("rare_classes"):
        said = f"{metrics['rare_classes']:.0f} classes have fewer than {LEAST_CLASS} of the {n:.0f} rows evaluated"
        return [
            f"{said}: recall of those, and so balanced_accuracy (which leaves out classes without rows), say little"
        ]
    if metrics.get("events", LEAST_POSITIVES) < LEAST_POSITIVES:
        said = f"of the {n:.0f} rows evaluated {metrics['events']:.0f} have the event"
        return [f"{said}: with fewer than {LEAST_POSITIVES} the concordance can be off by chance alone"]
    positives = metrics.get("positives")
    if positives is None or min(positives, n - positives) >= LEAST_POSITIVES:
        return []
    rare = "positives" if positives <= n - positives else "negatives"
    said = f"of the {n:.0f} rows evaluated {min(positives, n - positives):.0f} are {rare}"
    if (area := metrics.get("auc")) is None:
        return [f"{said}: there is no auc"]
    chance = 1.96 * _chance(area, positives, n - positives)
    by = f" (by about {chance:.2g}, with 95 % confidence)" if chance > 0 else ""
    return [f"{said}: with fewer than {LEAST_POSITIVES} the auc can be off by chance alone{by}, beyond its own ±"]


def _chance(area: float, positives: float, negatives: float) -> float:
    """Return the standard error of an AUC as an estimate from these rows (Hanley and McNeil, Radiology 1982, eq. 1)."""
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (positives - 1) * (one - area**2) + (negatives - 1) * (two - area**2)
    return math.sqrt(max(variance, 0.0) / (positives * negatives))


def _listed(tasks: Sequence[Task]) -> str:
    return f"{', '.join(tasks[:-1])} or {tasks[-1]}"


def means_in(layout: str) -> tuple[str, ...]:
    """Return the names in `means:NAME,…`; raises `LayoutUnknown` for another layout."""
    names = tuple(layout.removeprefix(MEANS).split(","))
    if not layout.startswith(MEANS) or len(layout) > MOST_LAYOUT or not all(map(_METRIC.fullmatch, names)):
        said = f"names of {MOST_LAYOUT - len(MEANS)} characters together, of letters, digits, '.', '_' and '-'"
        raise LayoutUnknown(f"layout {layout!r} is unknown: metrics are named by {said}")
    if len(set(names)) < len(names) or COUNTS & set(names):
        raise LayoutUnknown(f"layout {layout!r} names a metric twice, or gives one the name of a count of rows")
    return names


def classes_in(layout: str) -> int:
    """Return C of `multiclass:C`; raises `LayoutUnknown` for another layout."""
    match = _MULTICLASS.fullmatch(layout)
    if match is None or not 2 <= int(match[1]) <= 1000:
        raise LayoutUnknown(f"layout {layout!r} is unknown")
    return int(match[1])


def _binary(sums: Sums, reading: Reading) -> dict[str, float]:
    n, loss, tp, fp, tn, fn = sums[:BINARY_HEAD]
    scored = sums[BINARY_HEAD:]
    positives = tp + fn
    made: dict[str, float] = {}
    if reading.threshold is not None:
        cut = score_curves.decisions_at(scored, reading.threshold)
        tp, fp, tn, fn = cut.tp, cut.fp, cut.tn, cut.fn
        made["threshold"] = cut.threshold
    found = {"examples": n, "positives": positives, "loss": loss / n, "accuracy": (tp + tn) / n} | made
    found |= _ratios({"precision": (tp, tp + fp), "recall": (tp, tp + fn), "specificity": (tn, tn + fp)})
    found |= _ratios({"f1": (2 * tp, 2 * tp + fp + fn)})
    if reading.best_threshold and (best := score_curves.best_decisions(scored)) is not None:
        found |= {"best_f1": best.f1, "best_threshold": best.threshold}
    for name, area in (("auc", score_bins.auc_of(scored)), ("pr_auc", score_curves.average_precision(scored))):
        if area is not None:
            found |= {name: area.value, f"{name}_error": area.error}
    found["ece"] = score_curves.calibration_error(scored)
    return {name: float(value) for name, value in found.items()}


def least_class(layout: str, sums: Sums) -> float:
    """Return how many rows the rarest class has that is there, of the layout `multiclass:C`; 0 where none is."""
    rows = _confusion(sums, classes_in(layout)).sum(axis=1)
    return float(rows[rows > 0].min(initial=math.inf)) if rows.any() else 0.0


def _confusion(sums: Sums, classes: int) -> Sums:
    """Return the sums over all rows, of groups too, as float64[C, C]."""
    return sums[3 : 3 + classes**2].reshape(classes, classes)


def _multiclass(sums: Sums, classes: int) -> dict[str, float]:
    n, loss, correct = sums[:3]
    confusion = _confusion(sums, classes)
    rows = confusion.sum(axis=1)
    seen = rows > 0
    recall = np.diag(confusion)[seen] / rows[seen]
    found = {"examples": n, "rare_classes": (rows < LEAST_CLASS).sum(), "loss": loss / n, "accuracy": correct / n}
    if recall.size:
        found["balanced_accuracy"] = recall.mean()
    return {name: float(value) for name, value in found.items()}


def _regression(sums: Sums, reading: Reading) -> dict[str, float]:
    n, squared, absolute, y, y_squared, error, relative, rows = sums
    spread = y_squared - y * y / n
    found = {"examples": n, "loss": squared / n, "mse": squared / n, "rmse": (squared / n) ** 0.5, "mae": absolute / n}
    if spread > 0:
        found["r2"] = 1 - squared / spread
    if rows > 0:
        found["mape"] = relative / rows
        found |= {"mape_rows": rows} if rows < n else {}
    if reading.quantile is not None:
        below, above = (absolute - error) / 2, (absolute + error) / 2  # of predictions below and above the label
        found["quantile_loss"] = (reading.quantile * below + (1 - reading.quantile) * above) / n
    return {name: float(value) for name, value in found.items()}


def _next_token(sums: Sums) -> dict[str, float]:
    rows, loss, places, right, known = map(float, sums)
    if places <= 0:
        return {"examples": rows, "tokens": 0.0}
    mean = loss / places
    found = {"examples": rows, "tokens": places, "loss": mean, "accuracy": right / places, "known": known / places}
    found["bits_per_token"] = mean / math.log(2)
    return found | ({"perplexity": math.exp(mean)} if mean < _MOST_EXPONENT else {})


def _survival(sums: Sums) -> dict[str, float]:
    n, loss, events, concordant, pairs = sums
    found = {"examples": n, "loss": loss / n, "events": events, "pairs": pairs}
    return {name: float(value) for name, value in (found | _ratios({"concordance": (concordant, pairs)})).items()}


def _ratios(parts: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {name: top / bottom for name, (top, bottom) in parts.items() if bottom > 0}
