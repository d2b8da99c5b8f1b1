"""How a site trains in a round: one section of parameters for every recipe that trains with torch.

It travels in a recipe's JSON schema, so the coordinator refuses a wrong value or combination when a job is submitted;
`faults` finds the same at a site. A combination that is refused is an entry of the schema's `allOf`: a `not` whose
description is the sentence that people read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, Final, Self

from undersong.recipes.protocol import TRAINING_ROUND, Context
from undersong.shared.wire.profiles import Task

JsonSchema = dict[str, Any]


def number(description: str, default: float, least: float, most: float, *, above: bool = False) -> JsonSchema:
    """Return the schema of a number from `least` (or, with `above`, from above it) to `most`."""
    low = "exclusiveMinimum" if above else "minimum"
    return {"type": "number", low: least, "maximum": most, "default": default, "description": description}


def whole(description: str, default: int, least: int, most: int) -> JsonSchema:
    """Return the schema of a whole number from `least` to `most`."""
    return {"type": "integer", "minimum": least, "maximum": most, "default": default, "description": description}


def choice(description: str, *values: str) -> JsonSchema:
    """Return the schema of one of these texts; the first is the default."""
    return {"enum": list(values), "default": values[0], "description": description}


STEPS: Final[dict[str, JsonSchema]] = {
    "epochs": whole("Passes over the rows in a round.", 1, 1, 1000),
    "batch_size": whole("Rows in a step; 0 takes all rows at once.", 32, 0, 100_000),
    "optimiser": choice("Optimiser at the sites; what it remembers begins anew in each round.", "sgd", "adam", "adamw"),
    "learning_rate": number("Learning rate at the sites.", 0.1, 0, 100, above=True),
    "momentum": {
        "type": "number",
        "minimum": 0,
        "exclusiveMaximum": 1,
        "default": 0.0,
        "description": "Momentum of sgd.",
    },
    "weight_decay": number("L2 penalty of sgd and adam; decoupled decay of adamw.", 0.0, 0, 10),
    "proximal_mu": number("Weight of the proximal term of FedProx; 0 leaves it out.", 0.0, 0, 1000),
    "schedule": choice("How the learning rate falls over the rounds of the job.", "constant", "linear", "cosine"),
    "warmup": number("Share of the job's rounds in which the learning rate rises from 0.", 0.0, 0, 0.9),
    "clip_gradient": number("Largest L2 norm of a step's gradient; 0 leaves it as it is.", 0.0, 0, 1e6),
    "precision": choice("Type of numbers in the forward pass; parameters stay float32.", "float32", "bfloat16"),
    "validation_fraction": number(
        "Share of a site's training rows that it holds back: the best epoch on them is kept.", 0.0, 0, 0.9
    ),
    "patience": whole("Epochs without a better loss on the rows held back until a site stops; 0: never.", 0, 0, 1000),
    "local_layers": {
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": 200},
        "maxItems": 1000,
        "default": [],
        "description": "Layers that are never sent, so that each site has its own, by their names or how those begin.",
    },
    "personal_weight": number(
        "Each site also trains a model of its own, held near the common one by this weight (Ditto); 0: it does not.",
        0.0, 0, 1000,
    ),
    "control_variates": {
        "type": "boolean",
        "default": False,
        "description": "Correct each step by how the site's gradients differ from all sites' (SCAFFOLD).",
    },
    "scaled_by": choice(
        "What a site's change is scaled by before it is sent; set by `strategy.name` (fednova: steps, qfedavg: loss).",
        "nothing", "steps", "loss",
    ),
    "fairness": number("The power of scaled_by: loss; set by `strategy.params.q`.", 1.0, 0, 10),
}  # fmt: skip
"""Parameters of every recipe that trains with torch, as JSON schemas with their defaults."""
LOSSES: Final[dict[str, JsonSchema]] = {
    "loss": choice(
        "What is minimised; auto: cross_entropy for classes, squared for numbers. "
        "huber, absolute and quantile are about numbers, focal about classes.",
        "auto", "cross_entropy", "focal", "squared", "absolute", "huber", "quantile",
    ),
    "class_weights": {
        "type": "array",
        "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 1e6},
        "maxItems": 1000,
        "default": [],
        "description": "Factor of each class in the loss, in the order of the classes; empty: all 1.",
    },
    "focal_gamma": number("Exponent of loss focal.", 2.0, 0, 20),
    "huber_delta": number("Where huber becomes linear, in standard deviations of the label.", 1.0, 0, 100, above=True),
    "quantile": {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 1,
        "default": 0.5,
        "description": "The quantile that loss quantile predicts.",
    },
}  # fmt: skip
"""Parameters of recipes whose loss a job may choose."""
TASKS: Final[dict[str, JsonSchema]] = {
    "task": {
        "enum": [str(task) for task in (Task.BINARY, Task.MULTICLASS, Task.REGRESSION)],
        "default": "binary",
        "description": "What the label is: one of two classes, one of several, or a number.",
    },
    "classes": whole("Classes of the label with task multiclass.", 2, 2, 1000),
}
"""Parameters of recipes that leave their task to the job."""
EVENT: Final[dict[str, JsonSchema]] = {
    "event": {
        "type": "string",
        "minLength": 1,
        "maxLength": 200,
        "default": "event",
        "description": "With task survival: the column, one of the features, that is 1 where the event came at the "
        "label's time, and 0 where the time was cut short.",
    },
}
"""The parameter of recipes whose label may be a time until an event."""
TASKS_AND_SURVIVAL: Final[dict[str, JsonSchema]] = {
    **TASKS,
    "task": {
        "enum": [*TASKS["task"]["enum"], str(Task.SURVIVAL)],
        "default": "binary",
        "description": "What the label is: one of two classes, one of several, a number, or the time until an event.",
    },
    **EVENT,
}
"""Parameters of recipes that leave their task to the job, and can learn from times until an event."""


class Given(Enum):
    """A condition on a parameter beside a list of values: written in the job, left out, or switched on."""

    WRITTEN = "written"
    LEFT_OUT = "left out"
    ON = "on"  # above 0, or a list that is not empty


Condition = Given | tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Combination:
    """Parameters that are refused together, and the sentence that says so."""

    sentence: str
    when: Mapping[str, Condition]

    def holds(self, params: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
        """Return whether all of it is so, in parameters as they were written and with their defaults."""
        return all(
            _is_so(condition, name in params, settings.get(name))
            for name, condition in self.when.items()
            if name in settings
        )

    def schema(self, defaults: Mapping[str, Any]) -> JsonSchema:
        """Return it as a JSON schema of the parameters, which may leave any of them out."""
        properties: JsonSchema = {}
        required: list[str] = []
        absent: list[str] = []
        for name, condition in self.when.items():
            if condition is Given.LEFT_OUT:
                absent.append(name)
                continue
            if condition is Given.ON:
                properties[name] = {"exclusiveMinimum": 0, "minItems": 1}
            elif isinstance(condition, tuple):
                properties[name] = {"enum": list(condition)}
            if condition is Given.WRITTEN or not _is_so(condition, False, defaults[name]):
                required.append(name)
        refused: JsonSchema = {"properties": properties, "required": required}
        if absent:
            refused["not"] = {"anyOf": [{"required": [name]} for name in absent]}
        return {"not": refused, "description": self.sentence}


def _is_so(condition: Condition, written: bool, value: Any) -> bool:
    if condition is Given.WRITTEN:
        return written
    if condition is Given.LEFT_OUT:
        return not written
    if condition is Given.ON:
        return value > 0 if isinstance(value, int | float) else bool(value)
    return value in condition


def _refused(sentence: str, **when: Condition) -> Combination:
    return Combination(sentence, when)


_ON, _WRITTEN, _LEFT_OUT = Given.ON, Given.WRITTEN, Given.LEFT_OUT
_OF_CLASSES: Final = (str(Task.BINARY), str(Task.MULTICLASS))
_OF_NUMBERS: Final = (str(Task.REGRESSION),)
_OF_TOKENS: Final = (str(Task.NEXT_TOKEN),)
_OF_TIMES: Final = (str(Task.SURVIVAL),)
_ADAM: Final = ("adam", "adamw")
_SCALED: Final = ("steps", "loss")
COMBINATIONS: Final = (
    _refused(
        "momentum belongs to optimiser sgd, and adam and adamw have their own: leave it out",
        optimiser=_ADAM,
        momentum=_ON,
    ),
    _refused(
        "adam and adamw need a learning_rate of their own, 0.001 for example: the default is that of sgd",
        optimiser=_ADAM,
        learning_rate=_LEFT_OUT,
    ),
    _refused(
        "patience counts epochs on rows that a site holds back: set validation_fraction, 0.2 for example",
        patience=_ON,
        validation_fraction=(0,),
    ),
    _refused(
        "control variates correct plain steps of sgd: set optimiser: sgd, or control_variates: false",
        control_variates=(True,),
        optimiser=_ADAM,
    ),
    _refused("control variates correct plain steps of sgd: leave momentum out", control_variates=(True,), momentum=_ON),
    _refused(
        "control variates follow from all steps of a round, and the best epoch undoes some: set validation_fraction: 0",
        control_variates=(True,),
        validation_fraction=_ON,
    ),
    _refused(
        "each site has its own model or its own layers, not both: set personal_weight: 0, or leave local_layers out",
        personal_weight=_ON,
        local_layers=_ON,
    ),
    _refused(
        "strategies fednova and qfedavg count plain steps of sgd: set optimiser: sgd, or take another strategy",
        scaled_by=_SCALED,
        optimiser=_ADAM,
    ),
    _refused(
        "strategies fednova and qfedavg scale what control variates correct: set control_variates: false",
        scaled_by=_SCALED,
        control_variates=(True,),
    ),
    _refused(
        "this loss is about numbers and the task about classes: use auto, cross_entropy or focal",
        task=_OF_CLASSES,
        loss=("squared", "absolute", "huber", "quantile"),
    ),
    _refused(
        "this loss is about classes and the task about numbers: use auto, squared, absolute, huber or quantile",
        task=_OF_NUMBERS,
        loss=("cross_entropy", "focal"),
    ),
    _refused("class_weights need classes, and task regression has none", task=_OF_NUMBERS, class_weights=_ON),
    _refused(
        "with task next_token the loss is the cross-entropy of each place: leave loss out",
        task=_OF_TOKENS,
        loss=("focal", "squared", "absolute", "huber", "quantile"),
    ),
    _refused("class_weights need classes of a label: leave them out", task=_OF_TOKENS, class_weights=_ON),
    _refused("class_weights need classes, and task survival has none", task=_OF_TIMES, class_weights=_ON),
    _refused(
        "task survival has a loss of its own, Cox's partial likelihood: leave loss out",
        task=_OF_TIMES,
        loss=tuple(LOSSES["loss"]["enum"][1:]),
    ),
    _refused("event is of task survival: leave it out", task=(*_OF_CLASSES, *_OF_NUMBERS), event=_WRITTEN),
    *(
        Combination(
            f"{name} is of loss {loss}, and the job has another: set loss: {loss}, or leave {name} out",
            {name: _WRITTEN, "loss": tuple(each for each in LOSSES["loss"]["enum"] if each != loss)},
        )
        for name, loss in (("focal_gamma", "focal"), ("huber_delta", "huber"), ("quantile", "quantile"))
    ),
)
"""Combinations that no recipe takes."""
WITH_NOISE: Final = (
    _refused(
        "the loss of task survival compares rows with each other, so that no row has a gradient of its own to clip: "
        "protect sites (privacy.model server or distributed), or take another task",
        task=_OF_TIMES,
    ),
    _refused("the best epoch would be chosen on exact rows: set validation_fraction: 0", validation_fraction=_ON),
    _refused("gradients of single rows are computed in float32: set precision: float32", precision=("bfloat16",)),
    _refused("each row's gradient is clipped (privacy.clip_norm): leave clip_gradient out", clip_gradient=_ON),
    _refused("nothing is kept at a site between rounds that protect records: leave local_layers out", local_layers=_ON),
    _refused("a personal model would be trained without noise: set personal_weight: 0", personal_weight=_ON),
    _refused("control variates would follow from exact gradients: leave them out", control_variates=(True,)),
    _refused(
        "strategies fednova and qfedavg send what follows from the exact number of rows or loss: take another strategy",
        scaled_by=_SCALED,
    ),
)
"""Combinations that no recipe takes where it adds noise that protects records."""


def known_combinations(
    combinations: Iterable[Combination],
    properties: Mapping[str, JsonSchema],
    task: str | None,
    own: Iterable[str] = (),
) -> tuple[Combination, ...]:
    """Return those that a recipe with these parameters can meet; `task` is its own where the job does not decide it.

    `own`: parameters for which the recipe has a default of its own.
    """
    found = []
    for each in combinations:
        when = dict(each.when)
        tasks = when.get("task")
        if task is not None and isinstance(tasks, tuple) and task in tasks:
            del when["task"]
        offered = properties.get("task", {}).get("enum")
        if offered is not None and isinstance(tasks, tuple) and not set(tasks) & set(offered):
            continue
        own_default = any(condition is Given.LEFT_OUT and name in own for name, condition in when.items())
        if when.keys() <= properties.keys() and not own_default:
            found.append(Combination(each.sentence, when))
    return tuple(found)


def schema_of(properties: Mapping[str, JsonSchema], combinations: Iterable[Combination]) -> JsonSchema:
    """Return the JSON schema of a recipe's parameters, with the combinations that it refuses."""
    made: JsonSchema = {"type": "object", "additionalProperties": False, "properties": dict(properties)}
    if refused := [each.schema(defaults(properties)) for each in combinations]:
        made["allOf"] = refused
    return made


def defaults(properties: Mapping[str, JsonSchema]) -> dict[str, Any]:
    """Return the parameters' defaults."""
    return {name: entry["default"] for name, entry in properties.items() if "default" in entry}


def faults(
    combinations: Iterable[Combination], params: Mapping[str, Any], settings: Mapping[str, Any]
) -> Iterator[str]:
    """Yield the sentence of each combination that the parameters meet; `settings` are they with their defaults."""
    return (each.sentence for each in combinations if each.holds(params, settings))


@dataclass(frozen=True, slots=True)
class LocalTraining:
    """What a site does with its rows in a round; see `STEPS` for each field."""

    epochs: int = 1
    batch_size: int = 32
    optimiser: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal_mu: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.0
    clip_gradient: float = 0.0
    precision: str = "float32"
    validation_fraction: float = 0.0
    patience: int = 0
    local_layers: Sequence[str] = ()
    personal_weight: float = 0.0
    control_variates: bool = False
    scaled_by: str = "nothing"
    fairness: float = 1.0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Return the fields of this section among a recipe's settings."""
        return cls(**{each.name: settings[each.name] for each in fields(cls) if each.name in settings})

    def rate(self, context: Context, step: int, steps: int) -> float:
        """Return the learning rate of a step of a round: `schedule` and `warmup` run over all rounds of the job."""
        number, rounds = context.get(TRAINING_ROUND, (0.0, 1.0))
        place = min(1.0, (number + (step + 0.5) / max(steps, 1)) / max(rounds, 1.0))
        if place < self.warmup:
            return self.learning_rate * place / self.warmup
        left = 1 - (place - self.warmup) / (1 - self.warmup)
        share = {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[self.schedule]
        return self.learning_rate * share
