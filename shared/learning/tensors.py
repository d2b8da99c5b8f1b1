"""A model's tensors and its flat float32 vector, by one rule.

| tensor | role | in the vector | after a round |
| --- | --- | --- | --- |
| float, trained | parameter | yes | strategy step |
| float, not trained (BatchNorm mean) | buffer | yes | plain mean, no server optimiser |
| integer, bool, or named fixed (standardisation) | fixed | no | as in the model before |

The roles are in the model file's metadata under ``undersong.roles``: names of buffers and of fixed tensors; every other
float tensor is a parameter. The vector holds all parameters in order of their names, then all buffers.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shared.errors import Invalid
from shared.learning import safetensors

Array = npt.NDArray[Any]
Vector = npt.NDArray[np.float32]
ROLES_KEY: Final = "undersong.roles"


class ModelMismatch(Invalid):
    """The tensors are not those of the model: other names, shapes, types or roles."""


class Role(StrEnum):
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
    role: Role

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Schema:
    """A model's tensors, sorted by name."""

    tensors: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Array], *, buffers: Iterable[str] = (), fixed: Iterable[str] = ()) -> "Schema":
        """The schema of these tensors; raises `ModelMismatch` for a role of a tensor that is not there."""
        buffers, fixed = frozenset(buffers), frozenset(fixed)
        if unknown := (buffers | fixed) - set(tensors):
            raise ModelMismatch(f"roles name tensors that are not there: {', '.join(sorted(unknown))}")
        return cls(tuple(_spec(name, tensors[name], buffers, fixed) for name in sorted(tensors)))

    @property
    def trained(self) -> tuple[TensorSpec, ...]:
        """The vector's tensors in order: parameters, then buffers."""
        chosen = [t for t in self.tensors if t.role is not Role.FIXED]
        return tuple(sorted(chosen, key=lambda t: (t.role is Role.BUFFER, t.name)))

    @property
    def length(self) -> int:
        """Coordinates of the vector."""
        return sum(t.size for t in self.trained)

    @property
    def parameters(self) -> int:
        """Coordinates of the vector that the strategy's optimiser moves: those before the buffers."""
        return sum(t.size for t in self.tensors if t.role is Role.PARAMETER)

    def roles(self) -> str:
        """The value of ``undersong.roles``."""
        named = {role: [t.name for t in self.tensors if t.role is role] for role in (Role.BUFFER, Role.FIXED)}
        return json.dumps({str(role): names for role, names in named.items()}, separators=(",", ":"))

    def summary(self) -> list[dict[str, object]]:
        """For people and for JSON."""
        return [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype, "role": str(t.role)} for t in self.tensors]

    def check(self, tensors: Mapping[str, Array]) -> None:
        """Raise `ModelMismatch` unless names, shapes and types are this schema's."""
        missing, extra = {t.name for t in self.tensors} - set(tensors), set(tensors) - {t.name for t in self.tensors}
        if missing or extra:
            raise ModelMismatch(f"missing tensors: {sorted(missing)}; unknown tensors: {sorted(extra)}")
        for spec in self.tensors:
            found = tensors[spec.name]
            if tuple(found.shape) != spec.shape or found.dtype.name != spec.dtype:
                raise ModelMismatch(
                    f"tensor {spec.name} is {found.dtype.name}{list(found.shape)}, "
                    f"the model's is {spec.dtype}{list(spec.shape)}"
                )


@dataclass(frozen=True, slots=True)
class Model:
    """Tensors with their schema."""

    schema: Schema
    tensors: dict[str, Array]


def flatten(schema: Schema, tensors: Mapping[str, Array]) -> Vector:
    """The float32[schema.length] of a model's parameters and buffers."""
    schema.check(tensors)
    vector = np.empty(schema.length, np.float32)
    at = 0
    for spec in schema.trained:
        vector[at : at + spec.size] = tensors[spec.name].reshape(-1)
        at += spec.size
    return vector


def unflatten(schema: Schema, vector: Vector, base: Mapping[str, Array]) -> dict[str, Array]:
    """Tensors from a vector; fixed ones come from `base`, the model before."""
    if vector.shape != (schema.length,):
        raise ModelMismatch(f"the vector has {vector.size} coordinates, the model has {schema.length}")
    made = {spec.name: base[spec.name] for spec in schema.tensors if spec.role is Role.FIXED}
    at = 0
    for spec in schema.trained:
        made[spec.name] = vector[at : at + spec.size].reshape(spec.shape).astype(spec.dtype)
        at += spec.size
    return {spec.name: made[spec.name] for spec in schema.tensors}


def difference(schema: Schema, after: Mapping[str, Array], before: Mapping[str, Array]) -> Vector:
    """What a site sends: flat(after) - flat(before), float32."""
    change = flatten(schema, after)
    change -= flatten(schema, before)
    return change


def save(model: Model) -> bytes:
    """The model file: tensors, and their roles in the metadata."""
    model.schema.check(model.tensors)
    return safetensors.write(model.tensors, {ROLES_KEY: model.schema.roles()})


def load(data: bytes | memoryview) -> Model:
    """A model from its file; raises `BadModelFile` or `ModelMismatch`."""
    header = safetensors.read_header(data)
    tensors = safetensors.read(data)
    buffers, fixed = _roles(header.metadata.get(ROLES_KEY))
    return Model(Schema.of(tensors, buffers=buffers, fixed=fixed), tensors)


def _spec(name: str, array: Array, buffers: frozenset[str], fixed: frozenset[str]) -> TensorSpec:
    inexact = array.dtype.kind == "f"
    role = Role.FIXED if name in fixed or not inexact else Role.BUFFER if name in buffers else Role.PARAMETER
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
