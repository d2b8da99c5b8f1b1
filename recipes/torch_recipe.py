"""A recipe from a PyTorch module and a loss: what a scientist writes is the model, the platform does the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import getdoc, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes import fitting, site_models, site_scaling, training
from undersong.recipes.learner import FirstTensors, Learned, LocalRound, ModelShape, probabilities
from undersong.recipes.local_training import (
    COMBINATIONS,
    LOSSES,
    STEPS,
    TASKS,
    TASKS_AND_SURVIVAL,
    WITH_NOISE,
    JsonSchema,
    defaults,
    known_combinations,
)
from undersong.recipes.losses import loss_of
from undersong.recipes.pretrained import Pretrained, check_frozen, digest_of
from undersong.recipes.protocol import Array, Params, RecipeError, Tensors
from undersong.recipes.reading import Loader
from undersong.recipes.signature import parameters_of
from undersong.recipes.supervised import READING, TABLE, TEXT, SupervisedRecipe, tasks_of
from undersong.recipes.table import MEAN
from undersong.shared.learning.strategies import SCALE
from undersong.shared.names import hint
from undersong.shared.wire.profiles import ABOUT_TRAINING

if TYPE_CHECKING:
    import torch

TORCH_FILES: Final = (
    "torch_recipe.py", "site_models.py", "site_scaling.py", "fitting.py", "parallel.py", "training.py",
    "noisy_steps.py", "losses.py", "signature.py", *READING,
)  # fmt: skip
"""The files whose code a torch recipe runs: part of the digest of those that come with the platform."""
Scores = Callable[["torch.Tensor"], "torch.Tensor"]
_MEANS: Final = ("running_mean", "running_var")


class TorchRecipe(SupervisedRecipe):
    """A recipe that trains the module that `build` makes.

    source: the recipe's own file, `__file__`. build: called with a `ModelShape` and, by name, with the job's values of
    its other parameters, whose defaults say of which type they are. loss: of the module's outputs [n, outputs] and the
    labels [n], a mean over rows; without one the job chooses (parameter `loss`). scores: turns outputs into
    probabilities, for modules that do not give log odds or logits. augment: called with a step's rows [n, …], a
    numpy Generator and, by name, with its parameters, and returns the rows to train on; not where noise protects
    records. task: None leaves it to the job. params: JSON schemas, with defaults, that take the place of those read
    from `build`. training: this recipe's own defaults of
    `undersong.recipes.local_training`. record_params: what parameters must be for noise that protects records; None
    where the module cannot (it normalises over batches). encode: for recipes of texts; called with a list of texts and,
    by name, with the job's values of its other parameters, it returns numbers [n, …] of one shape. pretrained: files
    from which `build` loads what it freezes: frozen parameters are then no part of the model, and each site loads them.
    load: reads data sets of kind own; called with the path and the names of the wanted columns, it returns a mapping
    from these to arrays [rows, …].

    Raises `RecipeError` for what cannot be a recipe.
    """

    parallel: Final = True
    """Several processes of a site may train it together (`undersong.recipes.parallel`)."""

    def __init__(
        self,
        source: str | Path | Sequence[Path],
        *,
        build: Callable[..., torch.nn.Module],
        loss: fitting.Loss | None = None,
        scores: Callable[[torch.Tensor], torch.Tensor] | None = None,
        augment: Callable[..., torch.Tensor] | None = None,
        task: str | None = "binary",
        classes: int | None = None,
        inputs: Sequence[str] = TABLE,
        name: str | None = None,
        version: str = "1",
        description: str | None = None,
        params: Mapping[str, JsonSchema] | None = None,
        training: Mapping[str, Any] | None = None,
        record_params: JsonSchema | None = {},  # noqa: B006 (never changed)
        encode: Callable[..., Array] | None = None,
        pretrained: Pretrained | None = None,
        load: Loader | None = None,
    ) -> None:
        if (encode is not None) != (tuple(inputs) == TEXT) and self.reduces is None:
            raise RecipeError("recipes of texts have inputs=TEXT and encode, which turns texts into numbers: give both")
        own = dict(training or {})
        if unknown := sorted(own.keys() - (STEPS | LOSSES).keys()):
            raise RecipeError(f"training has no parameter {unknown[0]}{hint(unknown[0], STEPS | LOSSES)}")
        offered = STEPS | (LOSSES if loss is None else {})
        taken = {
            name: {**entry, "default": own.get(name, entry["default"]), "$comment": ABOUT_TRAINING}
            for name, entry in offered.items()
        }
        fixed = task is None and (loss is not None or "task" in (params or {}))  # written for other labels than times
        tasks = TASKS if fixed else TASKS_AND_SURVIVAL
        reserved = STEPS | LOSSES | TASKS | tasks_of(task, tasks)
        of_build = parameters_of(build, 1, reserved) if params is None else dict(params)
        of_encode = {} if encode is None else parameters_of(encode, 1, reserved)
        if odd := [name for name in of_encode if name in of_build and of_build[name] != of_encode[name]]:
            raise RecipeError(f"parameter {odd[0]} of build and of encode must have one default")
        self.load_columns = load
        self._build, self._loss, self._scores, self._augment = build, loss, scores, augment
        self._encode, self._of_encode, self._pretrained = encode, tuple(of_encode), pretrained
        self._of_augment = () if augment is None else tuple(signature(augment).parameters)[2:]
        self._of_build = tuple(name for name in of_build if name not in tasks and name not in self._of_augment)
        if augment is not None and params is None:
            of_build |= parameters_of(augment, 2, reserved | of_build)
        properties = taken | of_encode | of_build
        known = {**tasks_of(task, tasks), **properties}
        refused = known_combinations(COMBINATIONS, known, task, own)
        noisy = known_combinations(WITH_NOISE, known, task)
        super().__init__(
            source,
            name=name,
            version=version,
            description=(getdoc(build) or "").partition("\n")[0] if description is None else description,
            task=task,
            classes=classes,
            inputs=inputs,
            properties=properties,
            tasks=tasks,
            combinations=refused,
            record_params=None
            if record_params is None
            else {**record_params, "allOf": [each.schema(defaults(known)) for each in noisy]},
        )

    def begin(self, shape: ModelShape, settings: Mapping[str, Any], seed: int) -> FirstTensors:
        """Return the module's own draw by seed."""
        with training.seeded(seed):
            module = self._module(shape, settings)
        names = training.named_tensors(module)
        elsewhere = self._elsewhere(module)
        tensors = training.state_of(module, names.keys() - elsewhere)
        floats = [name for name in tensors if tensors[name].dtype.kind == "f"]
        trained = {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
        local = site_models.local_names(settings["local_layers"], tensors)
        averaged = {name for name in floats if name.rpartition(".")[2] in _MEANS and not _is_parameter(names[name])}
        averaged -= set(local)
        fixed = [name for name in floats if name in local or (id(names[name]) not in trained and name not in averaged)]
        sent = [name for name in floats if name not in fixed and name not in averaged]
        if local and not sent:
            raise RecipeError("local_layers names every layer that is trained: nothing would be sent")
        control = site_models.control_tensors(tensors, sent) if settings["control_variates"] else {}
        scale = site_scaling.scale_tensors(settings)
        frozen = {} if self._pretrained is None else digest_of(training.state_of(module, elsewhere))
        return FirstTensors(
            tensors | control | scale | frozen,
            buffers=(*sorted(averaged), *control, *scale),
            fixed=(*fixed, *frozen),
            bfloat16=tuple(name for name in tensors if str(names[name].dtype) == "torch.bfloat16"),
        )

    def learn(self, model: Tensors, work: LocalRound) -> Learned:
        """Train the module by the job's optimiser, schedule and loss."""
        own = [name for name in self.own_tensors(model) if not name.startswith((site_models.CONTROL, SCALE))]
        names = site_models.local_names(work.settings["local_layers"], own)
        start = site_models.merged(model, work.local) if names else model
        control = site_models.ControlVariates.of(model, work.local)
        made, fitted = self._fit(start, work, fitting.Adjusted(control.correction(training.device())))
        sent, local = control.after(start, made, fitted.rates) if control.common else ({}, {})
        sent |= {name: model[name] for name in names}
        moved = [name for name in made if name not in names and name.rpartition(".")[2] not in _MEANS]
        moved = [name for name in moved if made[name].dtype.kind == "f"]
        sent |= site_scaling.scaled(model, made, moved, fitted, work.settings, work.context)
        local |= {name: made[name] for name in names}
        if weight := work.settings["personal_weight"]:
            common = {name: training.tensor_of(model[name]) for name in made}
            held = fitting.Adjusted(anchor=common, weight=weight)
            local |= self._fit(site_models.merged(model, work.local), work, held)[0]
        if not all(np.isfinite(value).all() for value in local.values()):  # kept, it would end all later rounds here
            raise RecipeError(fitting.DIVERGED)
        return Learned(made | sent, fitted.examples, fitted.loss, fitted.events, local)

    def at_site(self, model: Tensors, local: Tensors) -> Tensors:
        """Return the model with a site's own layers, or its personal model."""
        return site_models.merged(model, local)

    def scores(
        self, shape: ModelShape, model: Tensors, x: Array, settings: Mapping[str, Any]
    ) -> npt.NDArray[np.float64]:
        """Return probabilities or values from the module's outputs."""
        outputs = training.outputs(self._module(shape, settings, model), x, self._scores)
        if self._scores is not None:
            return outputs.reshape(len(x), -1)[:, 0] if shape.outputs == 1 else outputs
        return probabilities(shape, outputs)

    def module_of(self, model: Tensors, params: Params) -> tuple[torch.nn.Module, Scores | None, ModelShape]:
        """Return a table model's module, what turns its outputs into probabilities (see `scores`), and its shape."""
        settings = self.settings(params)
        shape = self._shape((np.asarray(model[MEAN]).size,), settings, model)
        return self._module(shape, settings, model), self._scores, shape

    def encoded(self, texts: Sequence[str], settings: Mapping[str, Any]) -> Array:
        """Return what the recipe's `encode` makes of the texts."""
        if self._encode is None:
            return super().encoded(texts, settings)
        made = np.asarray(self._encode(list(texts), **{name: settings[name] for name in self._of_encode}))
        if made.ndim < 1 or len(made) != len(texts) or made.dtype.kind not in "fiu":
            raise RecipeError(
                f"encode made {made.dtype.name}{list(made.shape)} of {len(texts)} texts: return numbers, as many rows "
                "as texts"
            )
        return made.astype(np.float32 if made.dtype.kind == "f" else np.int64)

    def _fit(self, start: Tensors, work: LocalRound, adjusted: fitting.Adjusted) -> tuple[Tensors, fitting.Fitted]:
        """Train a module from these tensors; return what it then holds."""
        loss = self._loss or loss_of(work.shape.task, max(work.shape.outputs, 2), work.settings)
        if self._augment is not None:
            given = {name: work.settings[name] for name in self._of_augment}
            adjusted = replace(adjusted, augment=partial(self._augment, **given))
        with training.seeded(work.seed):
            module = self._module(work.shape, work.settings, start)
            fitted = fitting.fit(
                module, work.x, work.y, loss, work.settings, work.context, work.seed, work.progress, adjusted
            )
        made = training.state_of(module, start.keys() & training.named_tensors(module).keys())
        _check_buffers(module, made, start)
        return made, fitted

    def _module(self, shape: ModelShape, settings: Mapping[str, Any], model: Tensors | None = None) -> torch.nn.Module:
        if self._pretrained is not None:
            self._pretrained.check()
        module = self._build(shape, **{name: settings[name] for name in self._of_build})
        if model is not None:
            elsewhere = self._elsewhere(module)
            if self._pretrained is not None:
                check_frozen(model, training.state_of(module, elsewhere))
            training.load_state(module, model, elsewhere)
        return module

    def _elsewhere(self, module: torch.nn.Module) -> set[str]:
        """Return the frozen parameters that each site loads from pretrained files, and no model holds."""
        if self._pretrained is None:
            return set()
        named = training.named_tensors(module).items()
        return {name for name, tensor in named if _is_parameter(tensor) and not tensor.requires_grad}


def _is_parameter(tensor: torch.Tensor) -> bool:
    import torch

    return isinstance(tensor, torch.nn.Parameter)


def _check_buffers(module: torch.nn.Module, made: Tensors, before: Tensors) -> None:
    """Raise `RecipeError` where training changed a number that is neither trained nor a mean over batches."""
    for name, tensor in training.named_tensors(module).items():
        kept = not _is_parameter(tensor) and name.rpartition(".")[2] not in _MEANS and tensor.is_floating_point()
        if kept and not np.array_equal(made[name], before[name], equal_nan=True):
            raise RecipeError(
                f"training changed the buffer {name}, which no round sends: make it a parameter, or name it "
                "running_mean or running_var, which are averaged"
            )
