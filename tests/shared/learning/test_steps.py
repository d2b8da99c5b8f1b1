"""The next model's file from a round's mean change, for every type of master values."""

import numpy as np
import pytest

from undersong.shared.learning import steps
from undersong.shared.learning.steps import next_model
from undersong.shared.learning.strategies import SCALE, STRATEGIES, load_state, step_model, strategy_named
from undersong.shared.learning.tensors import Model, Schema, flatten, load, save, unflatten

RANDOM = np.random.default_rng(5)


def model(dtype: type[np.floating]) -> Model:
    tensors = {
        "a": RANDOM.normal(size=(5, 3)).astype(dtype),
        "b": RANDOM.normal(size=7).astype(np.float32),
        "running_mean": RANDOM.normal(size=4).astype(np.float32),
        "steps": np.array([3]),
        SCALE: np.zeros(1, np.float32),
    }
    return load(save(Model(Schema.of(tensors, buffers=["running_mean", SCALE]), tensors)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_model_stepped_by_parts_is_that_of_a_whole_step(
    strategy: str, dtype: type[np.floating], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_BLOCK", 4)
    base, state, moments = model(dtype), None, {}
    masters = flatten(base.schema, base.tensors)
    for _ in range(3):
        mean = (RANDOM.normal(size=base.schema.length) / 16).astype(np.float32)
        at = [spec.name for spec in base.schema.trained].index(SCALE)
        scale_at = sum(spec.size for spec in base.schema.trained[:at])
        masters, moments = step_model(
            strategy_named(strategy), masters, mean.copy(), moments, {}, base.schema.parameters, scale_at
        )
        made = next_model(base, state, mean, strategy=strategy, params={}, metadata={"round": "r"})
        assert made.content == save(Model(base.schema, unflatten(base.schema, masters, base.tensors)))
        kept, short = load_state(made.state)
        assert all(np.array_equal(kept[name], moments[name]) for name in moments)
        assert (short is not None) == (dtype is np.float16)
        base, state = load(made.content), made.state
        if short is None:  # master values are kept for short types alone
            masters = flatten(base.schema, base.tensors)
