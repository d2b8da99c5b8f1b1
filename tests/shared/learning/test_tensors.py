"""Tensors and their flat vector."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.learning import safetensors
from shared.learning.tensors import (
    ROLES_KEY,
    Model,
    ModelMismatch,
    Role,
    Schema,
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
    assert roles["bn.seen"] is Role.FIXED
    assert roles["input.mean"] is Role.FIXED


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
    assert not difference(model.schema, tensors, tensors).any()


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
