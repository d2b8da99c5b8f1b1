"""A model's tensors and its flat vector, by one rule.

| tensor | role | in the vector | after a round |
| --- | --- | --- | --- |
| float, trained | parameter | yes | strategy step |
| float, not trained (BatchNorm mean) | buffer | yes | plain mean, no server optimiser |
| integer, bool, or named fixed (standardisation) | fixed | no | as in the model before |

The roles are in the model file's metadata under ``undersong.roles``: names of buffers and of fixed tensors; every other
float tensor is a parameter. The vector holds all parameters in order of their names, then all buffers.

Precision: the vector holds master values, float64 where a trained tensor is float64 and float32 otherwise. A float16
or bfloat16 tensor has float32 master values: a recipe may give them back in place of its own type, and the aggregator
keeps them between the rounds of a job, so that changes smaller than a step of the short type add up. A change is the
float32 difference of what a recipe was given and what it gave back. numpy has no bfloat16: such a tensor is float32 in
memory, with "bfloat16" in its `TensorSpec`. What a type cannot hold is an error (`Overflow`).
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.shared.errors import Invalid
from undersong.shared.learning import safetensors

Array = npt.NDArray[Any]
Vector = npt.NDArray[np.float32]
Master = npt.NDArray[np.floating]
BFLOAT16: Final = "bfloat16"
ROLES_KEY: Final = "undersong.roles"


class ModelMismatch(Invalid):
    """The tensors are not those of the model: other names, shapes, types or roles."""


class Overflow(ModelMismatch):
    """A number is larger than its tensor's type can hold."""


class TensorRole(StrEnum):
    """What a round does with a tensor."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a model."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: TensorRole

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def held(self) -> str:
        """The numpy type of the tensor in memory."""
        return "float32" if self.dtype == BFLOAT16 else self.dtype

    @property
    def short(self) -> bool:
        """Whether it is trained, and its type is too short for master values."""
        return self.role is not TensorRole.FIXED and self.dtype in (BFLOAT16, "float16")


@dataclass(frozen=True, slots=True)
class Schema:
    """A model's tensors, sorted by name."""

    tensors: tuple[TensorSpec, ...]

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, Array],
        *,
        buffers: Iterable[str] = (),
        fixed: Iterable[str] = (),
        bfloat16: Iterable[str] = (),
    ) -> "Schema":
        """Return the schema of these tensors; `bfloat16` names those of type float32 that are bfloat16 in the file.

        Raises `ModelMismatch` for a role of a tensor that is not there.
        """
        buffers, fixed, half = frozenset(buffers), frozenset(fixed), frozenset(bfloat16)
        if unknown := (buffers | fixed | half) - set(tensors):
            raise ModelMismatch(f"roles name tensors that are not there: {', '.join(sorted(unknown))}")
        if wrong := sorted(name for name in half if tensors[name].dtype != np.float32):
            raise ModelMismatch(f"tensors that are to be bfloat16 must be float32 in memory: {', '.join(wrong)}")
        specs = (_spec(name, tensors[name], buffers, fixed) for name in sorted(tensors))
        return cls(tuple(replace(spec, dtype=BFLOAT16) if spec.name in half else spec for spec in specs))

    @property
    def trained(self) -> tuple[TensorSpec, ...]:
        """The vector's tensors in order: parameters, then buffers."""
        chosen = [t for t in self.tensors if t.role is not TensorRole.FIXED]
        return tuple(sorted(chosen, key=lambda t: (t.role is TensorRole.BUFFER, t.name)))

    @property
    def bfloat16(self) -> tuple[str, ...]:
        """The names of bfloat16 tensors."""
        return tuple(t.name for t in self.tensors if t.dtype == BFLOAT16)

    @property
    def short(self) -> bool:
        """Whether a trained tensor's type is too short for master values."""
        return any(t.short for t in self.tensors)

    @property
    def master(self) -> type[np.floating]:
        """The type of the vector of master values."""
        return np.float64 if any(t.dtype == "float64" for t in self.trained) else np.float32

    @property
    def length(self) -> int:
        """Coordinates of the vector."""
        return sum(t.size for t in self.trained)

    @property
    def parameters(self) -> int:
        """Coordinates of the vector that the strategy's optimiser moves: those before the buffers."""
        return sum(t.size for t in self.tensors if t.role is TensorRole.PARAMETER)

    def roles(self) -> str:
        """Return the value of ``undersong.roles``."""
        named = {
            role: [t.name for t in self.tensors if t.role is role] for role in (TensorRole.BUFFER, TensorRole.FIXED)
        }
        return json.dumps({str(role): names for role, names in named.items()}, separators=(",", ":"))

    def summary(self) -> list[dict[str, object]]:
        """For people and for JSON."""
        return [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype, "role": str(t.role)} for t in self.tensors]

    def check(self, tensors: Mapping[str, Array], *, masters: bool = False) -> None:
        """Raise `ModelMismatch` unless names, shapes and types are this schema's.

        With `masters` a short tensor may also be float32.
        """
        missing, extra = {t.name for t in self.tensors} - set(tensors), set(tensors) - {t.name for t in self.tensors}
        if missing or extra:
            raise ModelMismatch(f"missing tensors: {sorted(missing)}; unknown tensors: {sorted(extra)}")
        for spec in self.tensors:
            found = tensors[spec.name]
            types = (spec.held, "float32") if masters and spec.short else (spec.held,)
            if tuple(found.shape) != spec.shape or found.dtype.name not in types:
                raise ModelMismatch(
                    f"tensor {spec.name} is {found.dtype.name}{list(found.shape)}, "
                    f"the model's is {spec.dtype}{list(spec.shape)}"
                )

    def result(self, tensors: Mapping[str, Array]) -> "Schema":
        """Return the schema of what a recipe gave back for this model: short tensors may have master values.

        Raises `ModelMismatch`.
        """
        self.check(tensors, masters=True)
        return Schema(tuple(replace(t, dtype=tensors[t.name].dtype.name) if t.short else t for t in self.tensors))


@dataclass(frozen=True, slots=True)
class Model:
    """Tensors with their schema."""

    schema: Schema
    tensors: dict[str, Array]


def blocks(schema: Schema, tensors: Mapping[str, Array], size: int) -> Iterator[tuple[int, Array]]:
    """Yield `flatten`'s vector in parts of at most `size`, each with the coordinate at which it begins; views where a
    tensor has the master values' type. No part holds parameters and buffers both.
    """
    at = 0
    for spec in schema.trained:
        flat = tensors[spec.name].reshape(-1)
        for start in range(0, spec.size, size):
            yield at + start, flat[start : start + size].astype(schema.master, copy=False)
        at += spec.size


def flatten(schema: Schema, tensors: Mapping[str, Array]) -> Master:
    """Return a model's parameters and buffers, `schema.master`[schema.length]."""
    schema.check(tensors, masters=True)
    vector = np.empty(schema.length, schema.master)
    at = 0
    for spec in schema.trained:
        vector[at : at + spec.size] = tensors[spec.name].reshape(-1)
        at += spec.size
    return vector


def unflatten(schema: Schema, vector: Master, base: Mapping[str, Array], *, copy: bool = True) -> dict[str, Array]:
    """Return tensors from a vector of master values; fixed ones come from `base`, the model before.

    copy: False makes tensors of the vector's own type views of it. Raises `ModelMismatch`, and `Overflow` for a number
    that its tensor's type cannot hold.
    """
    if vector.shape != (schema.length,):
        raise ModelMismatch(f"the vector has {vector.size} coordinates, the model has {schema.length}")
    made = {spec.name: base[spec.name] for spec in schema.tensors if spec.role is TensorRole.FIXED}
    at = 0
    for spec in schema.trained:
        made[spec.name] = _typed(spec, vector[at : at + spec.size].reshape(spec.shape), copy=copy)
        at += spec.size
    return {spec.name: made[spec.name] for spec in schema.tensors}


def difference(schema: Schema, after: Mapping[str, Array], before: Mapping[str, Array]) -> Vector:
    """Return what a site sends: flat(after) - flat(before), computed with master values, float32.

    No vector but the change is made where master values are float32. Raises `ModelMismatch`, and `Overflow` for a
    change that float32 cannot hold.
    """
    if schema.master is not np.float32:
        return change_from(schema, after, flatten(schema, before))
    schema.check(after, masters=True)
    schema.check(before, masters=True)
    change, at = np.empty(schema.length, np.float32), 0
    for spec in schema.trained:
        part = change[at : at + spec.size].reshape(spec.shape)
        np.subtract(after[spec.name], before[spec.name], out=part, dtype=np.float32)
        at += spec.size
    return change


def change_from(schema: Schema, after: Mapping[str, Array], before: Master) -> Vector:
    """Return `difference` from a model that is flat already."""
    change = flatten(schema, after)
    change -= before
    if change.dtype == np.float32:
        return np.asarray(change, np.float32)
    with np.errstate(over="ignore"):
        short = change.astype(np.float32)
    if np.isinf(short).any() and np.isfinite(change).all():
        raise Overflow("the change of a float64 tensor is larger than float32 can hold")
    return short


def save(model: Model) -> bytes:
    """Return the model file: tensors, and their roles in the metadata."""
    return b"".join(pieces(model))


def pieces(model: Model) -> Iterator[bytes | memoryview]:
    """Yield the file of `save` in parts, without a copy of the tensors."""
    model.schema.check(model.tensors)
    return safetensors.pieces(model.tensors, {ROLES_KEY: model.schema.roles()}, bfloat16=model.schema.bfloat16)


def load(data: bytes | memoryview) -> Model:
    """Return a model from its file; raises `BadModelFile` or `ModelMismatch`."""
    header = safetensors.read_header(data)
    tensors = safetensors.read(data)
    buffers, fixed = _roles(header.metadata.get(ROLES_KEY))
    half = [tensor.name for tensor in header.tensors if tensor.dtype == "BF16"]
    return Model(Schema.of(tensors, buffers=buffers, fixed=fixed, bfloat16=half), tensors)


def _typed(spec: TensorSpec, values: Master, *, copy: bool) -> Array:
    """Return master values in the tensor's type; raises `Overflow`."""
    with np.errstate(over="ignore"):
        made = values.astype(spec.held, copy=copy)
    if spec.dtype == BFLOAT16:
        made = safetensors.bfloat16_of(made)
    if made.dtype != values.dtype or spec.dtype == BFLOAT16:
        lost = np.isinf(made) & np.isfinite(values)
        if lost.any():
            raise Overflow(f"tensor {spec.name} holds {values[lost].flat[0]:.6g}, which {spec.dtype} cannot hold")
    return np.asarray(made)


def _spec(name: str, array: Array, buffers: frozenset[str], fixed: frozenset[str]) -> TensorSpec:
    inexact = array.dtype.kind == "f"
    role = (
        TensorRole.FIXED
        if name in fixed or not inexact
        else TensorRole.BUFFER
        if name in buffers
        else TensorRole.PARAMETER
    )
    return TensorSpec(name, tuple(array.shape), array.dtype.name, role)


def _roles(text: str | None) -> tuple[list[str], list[str]]:
    if text is None:
        return [], []
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or set(document) != {"buffer", "fixed"}:
        raise ModelMismatch(f"{ROLES_KEY} is not a JSON object of buffer and fixed")
    for names in document.values():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ModelMismatch(f"{ROLES_KEY} must hold lists of tensor names")
    return document["buffer"], document["fixed"]
