"""Whatever the labels: each row at one client, each client with rows, and the same again from the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.simulate.conditions import ConditionsInvalid, partition_of
from undersong.simulate.partitions import split_by_value, split_rows

RULES = st.one_of(
    st.just("iid"),
    st.floats(0.001, 1e6).map(lambda value: f"dirichlet:{value}"),
    st.integers(1, 4).map(lambda count: f"shards:{count}"),
)


@settings(max_examples=examples(150), deadline=None)
@given(
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=300),
    clients=st.integers(1, 40),
    text=RULES,
    seed=st.integers(0, 2**53 - 1),
)
def test_each_row_is_dealt_once_and_each_client_has_some(labels: list[int], clients: int, text: str, seed: int) -> None:
    rule, values = partition_of(text), np.array(labels, float)
    if len(labels) < clients * (rule.value if rule.kind == "shards" else 1):
        with pytest.raises(ConditionsInvalid, match="training rows for"):
            split_rows(rule, values, clients, seed)
        return
    split = split_rows(rule, values, clients, seed)
    assert split.clients == clients
    assert sorted(split.rows.tolist()) == list(range(len(labels)))
    assert split.sizes.min() >= 1
    again = split_rows(rule, values, clients, seed)
    assert np.array_equal(split.rows, again.rows)
    assert np.array_equal(split.offsets, again.offsets)
    if rule.kind != "shards":
        assert np.ptp(split.sizes) <= 1
    for client in range(clients):
        assert np.array_equal(split.of(client), np.sort(split.of(client)))


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, float("nan")]), min_size=1, max_size=60))
def test_a_client_for_each_value(values: list[float]) -> None:
    split = split_by_value(np.array(values), {1.0: "one"})
    assert sorted(split.rows.tolist()) == list(range(len(values)))
    held = [
        {"one" if v == 1 else "(missing)" if v != v else f"{v:g}" for v in np.array(values)[split.of(at)]}
        for at in range(split.clients)
    ]
    assert held == [{name} for name in split.names]


def test_the_smaller_the_concentration_the_fewer_classes_a_client_has() -> None:
    labels = np.repeat(np.arange(10.0), 600)
    found = {}
    for text in ("iid", "dirichlet:100", "dirichlet:1", "dirichlet:0.05", "shards:2"):
        split = split_rows(partition_of(text), labels, 50, 1)
        shares = [np.bincount(labels[split.of(at)].astype(int), minlength=10) / split.sizes[at] for at in range(50)]
        found[text] = np.mean([share.max() for share in shares])
    assert found["iid"] < 0.2
    assert found["iid"] <= found["dirichlet:100"] < found["dirichlet:1"] < found["dirichlet:0.05"]
    assert found["shards:2"] >= 0.5


def test_a_label_of_numbers_has_no_classes_to_draw() -> None:
    with pytest.raises(ConditionsInvalid, match="2000 values"):
        split_rows(partition_of("dirichlet:1"), np.arange(2000.0), 10, 0)
