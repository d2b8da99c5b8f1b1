"""From a round's mean change to the job's next model file and strategy state: what an aggregator publishes."""

from collections.abc import Mapping
from dataclasses import dataclass

from undersong.shared.learning.strategies import SCALE, Vector, load_state, save_state, step_model, strategy_named
from undersong.shared.learning.tensors import Model, Schema, flatten, save, unflatten


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

    Raises `StrategyUnknown`, `BadModelFile` for a damaged state, `ModelMismatch`, and `Overflow` for a number that its
    tensor's type cannot hold.
    """
    schema = base.schema
    moments, masters = load_state(state)
    if masters is None or masters.shape != (schema.length,):
        masters = flatten(schema, base.tensors)
    chosen, scale_at = strategy_named(strategy), _place_of(SCALE, schema)
    after, moments = step_model(chosen, masters, mean, moments, params, schema.parameters, scale_at)
    content = save(Model(schema, unflatten(schema, after, base.tensors)))
    return SteppedModel(content, save_state(moments, after if schema.short else None, metadata))


def _place_of(name: str, schema: Schema) -> int | None:
    """Return the coordinate at which a trained tensor begins; None where the model has no such tensor."""
    at = 0
    for spec in schema.trained:
        if spec.name == name:
            return at
        at += spec.size
    return None
