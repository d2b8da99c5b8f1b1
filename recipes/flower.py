"""A recipe from an unmodified Flower ClientApp (flwr 1.42), whose files are part of the recipe's own file.

The app runs in the child that every own recipe runs in: no network, no files but its rows. A round's model becomes an
`ArrayRecord` in a `Message` of type train or evaluate, the reply's arrays become the update, which the engine hides and
adds up as any other; `num-examples` is the weight. `context.state` stays at the site between the rounds of a job.
"""

# ruff: noqa: ARG002  (every recipe takes what the protocol names, used or not)

from __future__ import annotations

import base64
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.flower_app import FlowerApp, load_app
from undersong.recipes.protocol import (
    TRAINING_ROUND,
    Context,
    Dataset,
    DataShape,
    Params,
    Progress,
    RecipeError,
    Tensors,
    TrainResult,
    source_digest,
)
from undersong.shared.learning.tensors import Model, Schema
from undersong.shared.names import hint
from undersong.shared.wire.profiles import RecipeSpec, Task

MOST_STATE: Final = 256 * 2**20
"""Bytes of `context.state` that a site keeps between rounds."""
SERVERS: Final = frozenset({"num-server-rounds", "num-rounds"})
"""Settings of an app that its ServerApp alone reads: the job decides them here."""
SERVER_PREFIXES: Final = ("fraction-", "min-")
_COUNT: Final = "num-examples"
_RUN: Final = 1
_STATE_ARRAYS: Final = "state/"
_STATE_VALUES: Final = "state.json"
_KINDS: Final[Mapping[type, str]] = {bool: "boolean", int: "integer", float: "number", str: "string"}
_MEANS: Final = ("running_mean", "running_var")

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class _Rows:
    """The file that an app reads its rows from, and whose rows they are."""

    data: Dataset
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "rows.npz"


class FlowerRecipe:
    """A recipe that runs a Flower app's ClientApp.

    source: the recipe's own file, `__file__`. files: the app's texts by their paths, `pyproject.toml` among them.
    initial: what makes the first model, ``module:function`` of the app or a function: it returns a torch module, a
    state dict, arrays, or an ArrayRecord. metrics: the names of an evaluation's metrics to report. train_config,
    evaluate_config: what the app expects in `message.content["config"]`, with defaults that a job may change. arrays,
    config: the names of the records in messages.

    Raises `RecipeError` for what cannot be a recipe.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        files: Mapping[str, str],
        initial: str | Callable[[], Any],
        metrics: Sequence[str],
        train_config: Mapping[str, Value] | None = None,
        evaluate_config: Mapping[str, Value] | None = None,
        arrays: str = "arrays",
        config: str = "config",
        name: str | None = None,
        version: str = "1",
        description: str | None = None,
    ) -> None:
        self._app, self._initial, self._metrics = load_app(files), initial, tuple(metrics)
        self._arrays, self._config = arrays, config
        self._messages: dict[str, dict[str, Value]] = {
            "train": dict(train_config or {}), "evaluate": dict(evaluate_config or {})
        }  # fmt: skip
        self._settings = self._app.config
        self._rows: _Rows | None = None
        if not self._metrics:
            raise RecipeError(f'name the metrics that evaluations return beside "{_COUNT}": metrics=("eval_loss",)')
        self.spec: RecipeSpec = RecipeSpec(
            name=name or Path(source).stem.replace("_", "-"),
            version=version,
            digest=source_digest(Path(source)),
            task=Task.BINARY,
            params_schema={
                "type": "object",
                "additionalProperties": False,
                "properties": {key: _schema(key, value) for key, value in self._offered().items()},
            },
            description=self._app.description if description is None else description,
            metrics=self._metrics,
        )

    def statistics(self, data: Dataset, params: Params, seed: int) -> npt.NDArray[np.float64]:
        """Raise `RecipeError`: a Flower app has no statistics round."""
        raise RecipeError(f"{self.spec.name} has no statistics round")

    def initial(self, shape: DataShape, params: Params, context: Context, seed: int) -> Model:
        """Return what the app's own function makes, by seed."""
        _seed(seed)
        made = self._app.attribute(self._initial) if isinstance(self._initial, str) else self._initial
        tensors = _tensors(made() if callable(made) else made)
        buffers = [name for name in tensors if name.rpartition(".")[2] in _MEANS]
        return Model(Schema.of(tensors, buffers=buffers), tensors)

    def train(
        self, model: Tensors, data: Dataset, params: Params, context: Context, seed: int, progress: Progress
    ) -> TrainResult:
        """Send the app a message of type train, and take its arrays."""
        _seed(seed)
        arrays, metrics, state = self._answer("train", model, data, params, context)
        if arrays is None:
            raise RecipeError(f"the app's reply to train has no arrays under {self._arrays!r}")
        if list(map(str, sorted(arrays))) != sorted(model):
            raise RecipeError(f"the app returns the arrays {sorted(arrays)}, and got {sorted(model)}")
        progress(1.0)
        tensors = {name: _like(name, arrays[name], value) for name, value in model.items()}
        return TrainResult(tensors, _count(metrics, "train"), _loss(metrics), local=state)

    def evaluate(self, model: Tensors, data: Dataset, params: Params, context: Context) -> npt.NDArray[np.float64]:
        """Send the app a message of type evaluate: rows, and rows times each metric."""
        _, metrics, _ = self._answer("evaluate", model, data, params, context)
        if missing := [name for name in self._metrics if name not in metrics]:
            known = sorted(set(metrics) - {_COUNT})
            raise RecipeError(f"the app's evaluation has no metric {missing[0]!r}{hint(missing[0], known)}")
        values = np.array([1.0, *(metrics[name] for name in self._metrics)])
        return values * _count(metrics, "evaluate")

    def predict(self, model: Tensors, rows: Mapping[str, Any], params: Params) -> npt.NDArray[np.float64]:
        """Raise `RecipeError`: a Flower app has no function that predicts."""
        raise RecipeError(f"{self.spec.name} is a Flower app, which has no function that predicts")

    def _offered(self) -> dict[str, Value]:
        """Return what a job may set: the app's settings, and what its server would send along."""
        run = {name: value for name, value in self._settings.items() if not _for_server(name)}
        return run | self._messages["train"] | self._messages["evaluate"]

    def _answer(
        self, kind: str, model: Tensors, data: Dataset, params: Params, context: Context
    ) -> tuple[Tensors | None, dict[str, float], Tensors]:
        """Return the arrays and metrics of the app's reply, and the state that it leaves."""
        run = {name: params.get(name, value) for name, value in self._settings.items()}
        said = {name: params.get(name, value) for name, value in self._messages[kind].items()}
        said["server-round"] = int(context.get(TRAINING_ROUND, (0.0,))[0])
        place = data.client or (0, 1)
        node: dict[str, Value] = {"data-path": str(self._written(data))} if len(data.label) else {}
        if data.client is not None:
            node |= {"partition-id": place[0], "num-partitions": place[1]}
        call = _Call(kind, place[0] + 1, self._arrays, self._config, said, node, run)
        return _ask(self._app, call, _ordered(model), data.local)

    def _written(self, data: Dataset) -> Path:
        """Return a file with the rows; the same one for as long as the rows are the same."""
        old = self._rows
        same = old is not None and all(
            getattr(old.data, name) is getattr(data, name) for name in ("features", "label", "train", "test")
        )
        if old is not None and same and old.file.exists():
            return old.file
        if old is not None:
            shutil.rmtree(old.folder, ignore_errors=True)
        rows = _Rows(data, Path(tempfile.mkdtemp(prefix="flower-")))
        features = data.features.astype(str) if data.features.dtype == object else data.features
        train, test = data.train, data.test  # apps open both parts, whichever they use: none is empty
        train, test = train if train.size else test[:1], test if test.size else train[:1]
        np.savez(
            rows.file,
            x_train=features[train],
            y_train=data.label[train],
            x_test=features[test],
            y_test=data.label[test],
            columns=np.array([column.name for column in data.columns if column.name != data.label_name], str),
            allow_pickle=False,
        )
        self._rows = rows
        return rows.file


@dataclass(frozen=True, slots=True)
class _Call:
    """A message to an app, without its arrays."""

    kind: str
    node_id: int
    arrays: str
    config: str
    said: Mapping[str, Value]
    node: Mapping[str, Value]
    run: Mapping[str, Value]


def _ask(
    app: FlowerApp, call: _Call, tensors: Tensors, local: Tensors
) -> tuple[Tensors | None, dict[str, float], Tensors]:
    """Call the app outside Flower; the one place that knows Flower's own names, private ones among them."""
    from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.supercore.task_identity import TaskIdentity  # private: without it no Message can be made

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN, call.node_id, _RUN
    legacy = app.is_legacy  # an app of a `client_fn` has other names for the records of a message
    prefix = {"train": "fitins.", "evaluate": "evaluateins."}[call.kind] if legacy else ""
    names = (prefix + "parameters", prefix + "config") if legacy else (call.arrays, call.config)
    records = {key: {name: Array(value) for name, value in each.items()} for key, each in _nested(local).items()}
    state = RecordDict({key: ArrayRecord(each) for key, each in records.items()})
    for key, (kind, values) in _values(local).items():
        state[key] = MetricRecord(values) if kind == "metric" else ConfigRecord(values)
    context = Context(_RUN, call.node_id, dict(call.node), state, dict(call.run))
    arrays = ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in tensors.items()})
    content = RecordDict({names[0]: arrays, names[1]: ConfigRecord(dict(call.said))})
    message = Message(content, dst_node_id=call.node_id, message_type=call.kind)
    reply = app.client(message, context)
    if reply.has_error():
        raise RecipeError(f"the app's reply to {call.kind} is an error: {reply.error.reason}")
    found = reply.content
    prefix = {"train": "fitres.", "evaluate": "evaluateres."}[call.kind] if legacy else ""
    record = found.array_records.get(prefix + "parameters" if legacy else call.arrays)
    metrics = {key: value for each in found.metric_records.values() for key, value in each.items()}
    if legacy:
        metrics |= dict(found.config_records.get(prefix + "metrics", {}))
        metrics = {_COUNT if key == "num_examples" else key: value for key, value in metrics.items()}
    made = None if record is None else dict(zip(tensors, (each.numpy() for each in record.values()), strict=False))
    if record is not None and (len(record) != len(tensors) or (not legacy and set(record) != set(tensors))):
        made = {name: each.numpy() for name, each in record.items()}  # the caller says what is wrong with it
    elif record is not None and not legacy:
        made = {name: record[name].numpy() for name in tensors}
    numbers = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
    return made, numbers, _kept(context.state)


def _kept(state: Any) -> Tensors:
    """Return an app's state as tensors; raises `RecipeError` where it is larger than a site keeps."""
    made = {
        f"{_STATE_ARRAYS}{key}/{name}": np.asarray(array.numpy())
        for key, record in state.array_records.items()
        for name, array in record.items()
    }
    values = {key: ["metric", dict(record)] for key, record in state.metric_records.items()}
    values |= {key: ["config", dict(record)] for key, record in state.config_records.items()}
    if values:
        packed = json.dumps(values, default=_bytes_as_text).encode()
        made[_STATE_VALUES] = np.frombuffer(packed, np.uint8)
    size = sum(array.nbytes for array in made.values())
    if size > MOST_STATE:
        raise RecipeError(f"the app's context.state is {size:,} bytes, and a site keeps {MOST_STATE:,}")
    return made


def _nested(local: Tensors) -> dict[str, Tensors]:
    found: dict[str, Tensors] = {}
    for path, value in local.items():
        if path.startswith(_STATE_ARRAYS):
            key, _, name = path.removeprefix(_STATE_ARRAYS).partition("/")
            found.setdefault(key, {})[name] = value
    return found


def _values(local: Tensors) -> dict[str, tuple[str, dict[str, Any]]]:
    packed = local.get(_STATE_VALUES)
    document = {} if packed is None else json.loads(bytes(packed), object_hook=_text_as_bytes)
    return {key: (kind, values) for key, (kind, values) in document.items()}


def _bytes_as_text(value: object) -> dict[str, str]:
    if not isinstance(value, bytes):
        raise RecipeError(f"the app's context.state holds a {type(value).__name__}, which cannot be kept")
    return {"base64": base64.b64encode(value).decode()}


def _text_as_bytes(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["base64"]) if set(value) == {"base64"} else value


def _tensors(made: Any) -> Tensors:
    """Return the arrays of a torch module, a state dict, a mapping, a list of arrays or an ArrayRecord."""
    if hasattr(made, "state_dict"):
        made = made.state_dict()
    if isinstance(made, list | tuple):
        made = {str(at): each for at, each in enumerate(made)}
    if not isinstance(made, Mapping) or not made:
        raise RecipeError(
            f"initial gives a {type(made).__name__}: let it return a torch module, a state dict, arrays or an "
            "ArrayRecord"
        )
    plain = {name: each.detach().cpu() if hasattr(each, "detach") else each for name, each in made.items()}
    return {name: np.array(each.numpy() if hasattr(each, "numpy") else each) for name, each in plain.items()}


def _ordered(model: Tensors) -> Tensors:
    """Return tensors in the order in which an app made them, as far as their names tell: numbers by their size."""
    if all(name.isdecimal() for name in model):
        return {name: model[name] for name in sorted(model, key=int)}
    return dict(model)


def _like(name: str, made: npt.NDArray[Any], given: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if made.shape != given.shape:
        raise RecipeError(f"the app returns {name} of shape {list(made.shape)}, and got {list(given.shape)}")
    return given if given.dtype.kind != "f" else made.astype(given.dtype)


def _count(metrics: Mapping[str, float], kind: str) -> int:
    if _COUNT not in metrics:
        raise RecipeError(f'the app\'s reply to {kind} has no metric "{_COUNT}", by which sites are weighed')
    return int(metrics[_COUNT])


def _loss(metrics: Mapping[str, float]) -> float:
    """Return the training loss, if the app tells one: 0 where it does not."""
    named = [name for name in ("train_loss", "loss", *metrics) if name in metrics and name.endswith("loss")]
    return metrics[named[0]] if named else 0.0


def _schema(name: str, value: Value) -> dict[str, Any]:
    return {"type": _KINDS[type(value)], "default": value, "description": f"{name} of the Flower app"}


def _for_server(name: str) -> bool:
    return name in SERVERS or name.startswith(SERVER_PREFIXES)


def _seed(seed: int) -> None:
    """Seed what apps draw from without a generator of their own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed % 2**63)
