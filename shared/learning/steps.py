"""From a round's mean change to the job's next model file and strategy state: what an aggregator publishes."""

from collections.abc import Mapping
from dataclasses import dataclass

from undersong.shared.learning.strategies import Vector, load_state, save_state, step_model, strategy_named
from undersong.shared.learning.tensors import Model, flatten, save, unflatten


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
    after, moments = step_model(strategy_named(strategy), masters, mean, moments, params, schema.parameters)
    content = save(Model(schema, unflatten(schema, after, base.tensors)))
    return SteppedModel(content, save_state(moments, after if schema.short else None, metadata))
