"""Tensors and their flat vector."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from undersong.shared.learning import safetensors
from undersong.shared.learning.strategies import load_state, save_state, step_model, strategy_named
from undersong.shared.learning.tensors import (
    ROLES_KEY,
    Model,
    ModelMismatch,
    Overflow,
    Schema,
    TensorRole,
    blocks,
    difference,
    flatten,
    load,
    save,
    unflatten,
)

TENSORS = {
    "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bn.running_mean": np.array([7, 8], np.float32),
    "bn.seen": np.array(3, np.int64),
    "input.mean": np.array([0.5]),
    "bias": np.array([9], np.float64),
}
SCHEMA = Schema.of(TENSORS, buffers=["bn.running_mean"], fixed=["input.mean"])


def test_parameters_come_first_then_buffers_and_nothing_fixed() -> None:
    assert flatten(SCHEMA, TENSORS).tolist() == [9, 0, 1, 2, 3, 4, 5, 7, 8]
    assert (SCHEMA.length, SCHEMA.parameters) == (9, 7)
    roles = {spec.name: spec.role for spec in SCHEMA.tensors}
    assert roles["bn.seen"] is TensorRole.FIXED
    assert roles["input.mean"] is TensorRole.FIXED


def test_fixed_tensors_stay_as_they_were() -> None:
    made = unflatten(SCHEMA, np.zeros(9, np.float32), TENSORS)
    assert made["bn.seen"] == 3
    assert made["input.mean"].tolist() == [0.5]
    assert made["bias"].dtype == np.float64
    assert not made["conv.weight"].any()
    SCHEMA.check(made)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6).filter(
            lambda name: name != "__metadata__"
        ),
        hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=3), elements=st.floats(-1000, 1000, width=32)),
        min_size=1,
        max_size=5,
    ),
    st.data(),
)
def test_a_model_survives_vector_and_file(tensors, data) -> None:
    names = sorted(tensors)
    buffers = data.draw(st.lists(st.sampled_from(names), unique=True))
    model = Model(Schema.of(tensors, buffers=buffers), tensors)
    again = load(save(model))
    assert again.schema == model.schema
    back = unflatten(again.schema, flatten(again.schema, again.tensors), again.tensors)
    assert all(np.array_equal(back[name], tensors[name]) for name in names)
    other = {name: array * np.float32(0.3) for name, array in tensors.items()}
    change = difference(model.schema, other, tensors)
    assert np.array_equal(change, flatten(model.schema, other) - flatten(model.schema, tensors))
    size = data.draw(st.integers(1, 9))
    parts = list(blocks(model.schema, tensors, size))
    assert [at for at, _ in parts] == list(np.cumsum([0, *(part.size for _, part in parts)])[: len(parts)])
    joined = np.concatenate([part for _, part in parts], dtype=np.float32) if parts else np.zeros(0, np.float32)
    assert np.array_equal(joined, flatten(model.schema, tensors))


@pytest.mark.parametrize(
    "changes",
    [
        {"bias": np.zeros(2)},
        {"bias": np.zeros(1, np.float32)},
        {"conv.weight": np.zeros((3, 2), np.float32)},
        {"extra": np.zeros(1)},
        {"bias": None},
    ],
)
def test_another_shape_type_or_name_is_refused(changes) -> None:
    tensors = {name: array for name, array in {**TENSORS, **changes}.items() if array is not None}
    with pytest.raises(ModelMismatch):
        flatten(SCHEMA, tensors)


def test_odd_roles_and_vectors_are_refused() -> None:
    with pytest.raises(ModelMismatch, match="not there"):
        Schema.of(TENSORS, buffers=["ghost"])
    with pytest.raises(ModelMismatch, match="coordinates"):
        unflatten(SCHEMA, np.zeros(8, np.float32), TENSORS)
    for text in (
        "{",
        "[]",
        '{"buffer": []}',
        '{"buffer": 1, "fixed": []}',
        '{"buffer": [1], "fixed": []}',
        "[" * 100_000,
    ):
        with pytest.raises(ModelMismatch):
            load(safetensors.write(TENSORS, {ROLES_KEY: text}))


def test_a_file_without_roles_is_all_parameters() -> None:
    model = load(safetensors.write({"w": np.ones(2, np.float32), "n": np.array(1)}))
    assert model.schema.length == model.schema.parameters == 2
    assert [entry["role"] for entry in model.schema.summary()] == ["fixed", "parameter"]


MIXED = {
    "double": np.full(2, 1e8),
    "half": np.full(3, 1.0, np.float16),
    "short": np.full(4, 1.0, np.float32),
    "single": np.full(2, 1.0, np.float32),
}
STEP = {"double": 1e-3, "half": 2e-4, "short": 2e-3, "single": 1e-5}


def mixed() -> Model:
    return load(save(Model(Schema.of(MIXED, bfloat16=["short"]), MIXED)))


def test_a_file_keeps_short_types() -> None:
    model = mixed()
    assert {spec.name: spec.dtype for spec in model.schema.tensors} == {
        "double": "float64", "half": "float16", "short": "bfloat16", "single": "float32",
    }  # fmt: skip
    assert save(model) == save(load(save(model)))
    assert model.schema.short
    assert not SCHEMA.short


@pytest.mark.parametrize("wide", [True, False])
def test_changes_smaller_than_a_step_add_up(wide: bool) -> None:
    """Twelve rounds, each through a file, a change and the aggregator's state, as a job does them.

    A recipe that gives back master values loses nothing. One that rounds to float16 itself loses that, and no more.
    """
    model, kept, rounds = mixed(), None, 12
    for _ in range(rounds):
        given = model.tensors
        after = {
            name: given[name].astype(np.float64 if name == "double" else np.float32) + STEP[name] for name in given
        }
        after = {name: value.astype(np.float64 if name == "double" else np.float32) for name, value in after.items()}
        if not wide:
            after["half"] = after["half"].astype(np.float16)
        result = load(save(Model(model.schema.result(after), after)))
        assert result.schema == model.schema.result(result.tensors)
        change = difference(model.schema, result.tensors, given)
        state, masters = load_state(kept)
        masters = flatten(model.schema, given) if masters is None else masters
        moved, state = step_model(strategy_named("fedavg"), masters, change, state, {}, model.schema.parameters)
        kept = save_state(state, moved, {"round": "x"})
        model = load(save(Model(model.schema, unflatten(model.schema, moved, given))))
    wanted = {name: MIXED[name].astype(np.float64)[0] + rounds * step for name, step in STEP.items()}
    assert model.tensors["double"][0] == pytest.approx(wanted["double"], abs=1e-7)
    assert model.tensors["short"][0] == pytest.approx(wanted["short"], abs=2**-8)
    assert model.tensors["short"][0] > 1
    assert model.tensors["single"][0] == pytest.approx(wanted["single"], abs=2e-7)
    assert model.tensors["half"][0] == pytest.approx(wanted["half"] if wide else 1.0, abs=2**-11)


def test_a_number_that_its_type_cannot_hold_is_an_error() -> None:
    for name, dtype, largest in (("half", "float16", 7e4), ("short", "bfloat16", 3.4e38), ("single", "float32", 1e39)):
        model = mixed()
        masters = flatten(model.schema, model.tensors)
        at = sum(MIXED[other].size for other in MIXED if other < name)
        masters[at] = largest
        with pytest.raises(Overflow, match=f"{name} .* {dtype} cannot hold"):
            unflatten(model.schema, masters, model.tensors)
    far = {**MIXED, "double": np.full(2, 1e300)}
    with pytest.raises(Overflow, match="float32"):
        difference(mixed().schema, far, MIXED)


def test_only_short_tensors_may_come_back_wider() -> None:
    schema = mixed().schema
    for name in ("single", "double"):
        other = np.float32 if name == "double" else np.float64
        with pytest.raises(ModelMismatch, match=name):
            schema.result({**MIXED, name: MIXED[name].astype(other)})
    with pytest.raises(ModelMismatch, match="half"):
        schema.result({**MIXED, "half": MIXED["half"].astype(np.float64)})
    with pytest.raises(ModelMismatch, match="bfloat16"):
        Schema.of(MIXED, bfloat16=["half"])
    with pytest.raises(ModelMismatch, match="not there"):
        Schema.of(MIXED, bfloat16=["ghost"])
