"""Whatever the labels: each row at one client, each client with rows, and the same again from the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.simulate.conditions import ConditionsInvalid, partition_of
from undersong.simulate.partitions import no_rows, owners_by_label, owners_by_value, split_by_value, split_rows

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


def test_a_client_is_tested_on_labels_as_it_trains_on() -> None:
    random = np.random.default_rng(0)
    labels, others = (np.append(random.integers(0, 10, 6000).astype(float), [0.0]) for _ in range(2))
    split = split_rows(partition_of("shards:2"), labels, 50, 1)
    owners = owners_by_label(labels, split, others, 1)
    assert np.array_equal(owners, owners_by_label(labels, split, others, 1))
    assert abs(np.bincount(owners, minlength=50).mean() - 120) < 1
    for client in range(50):
        assert set(others[owners == client]) <= set(labels[split.of(client)])
    alone = split_rows(partition_of("shards:1"), np.arange(100.0), 10, 0)
    near = owners_by_label(np.arange(100.0), alone, np.array([-5.0, 37.2, 37.8, 1e9]), 0)
    holder = {row: client for client in range(10) for row in alone.of(client).tolist()}
    assert near.tolist() == [holder[0], holder[37], holder[38], holder[99]]
    assert owners_by_label(np.zeros(0), no_rows(3), np.zeros(0), 0).size == 0


def test_a_client_of_a_value_is_tested_on_rows_of_it() -> None:
    values = np.array([2.0, np.nan, 1.0, 2.0])
    split = split_by_value(values, {})
    others = np.array([np.nan, 1.0, 3.0, 2.0, -1.0])
    assert owners_by_value(values, split, others).tolist() == [2, 0, -1, 1, -1]
    assert owners_by_value(values[:1], split_by_value(values[:1], {}), others).tolist() == [-1, -1, -1, 0, -1]
