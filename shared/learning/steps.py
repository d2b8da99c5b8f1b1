"""From a round's mean change to the job's next model file and strategy state: what an aggregator publishes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from undersong.shared.learning.strategies import SCALE, Vector, load_state, save_state, step_into, strategy_named
from undersong.shared.learning.tensors import Master, Model, Schema, blocks, save, unflatten

_BLOCK: Final = 2**20  # coordinates that are stepped together


@dataclass(frozen=True, slots=True)
class SteppedModel:
    """The next model's file, and the state that the next round's step needs; None where there is none."""

    content: bytes
    state: bytes | None


def next_model(
    base: Model,
    state: bytes | None,
    mean: Vector,
    *,
    strategy: str,
    params: Mapping[str, object],
    metadata: Mapping[str, str],
) -> SteppedModel:
    """Return the model after a strategy's step from `base` by the mean change; `metadata` goes into the state's file.

    Where master values are float32, `mean` becomes the next model's vector, so that a large model is in memory once
    less. Raises `StrategyUnknown`, `BadModelFile` for a damaged state, `ModelMismatch`, and `Overflow` for a number
    that its tensor's type cannot hold.
    """
    schema = base.schema
    moments, masters = load_state(state)
    previous = blocks(schema, base.tensors, _BLOCK)
    if masters is not None and masters.shape == (schema.length,):
        previous = _parts(masters, schema.parameters)
    after: Master = mean if mean.dtype == schema.master and mean.flags.writeable else np.empty(len(mean), schema.master)
    chosen, scale_at = strategy_named(strategy), _place_of(SCALE, schema)
    moments = step_into(after, chosen, previous, mean, moments, params, schema.parameters, scale_at)
    content = save(Model(schema, unflatten(schema, after, base.tensors, copy=False)))
    return SteppedModel(content, save_state(moments, after if schema.short else None, metadata))


def _parts(vector: Master, parameters: int) -> Iterator[tuple[int, Master]]:
    """Yield the parameters of a vector, and its buffers."""
    yield 0, vector[:parameters]
    yield parameters, vector[parameters:]


def _place_of(name: str, schema: Schema) -> int | None:
    """Return the coordinate at which a trained tensor begins; None where the model has no such tensor."""
    at = 0
    for spec in schema.trained:
        if spec.name == name:
            return at
        at += spec.size
    return None
