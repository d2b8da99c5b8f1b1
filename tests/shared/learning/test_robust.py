"""Median, trimmed mean and Krum: against the papers' definitions written plainly, and against what attackers send."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.shared.learning import robust
from undersong.shared.learning.strategies import STRATEGIES, StrategyUnknown, combined, strategy_named

RULES = ("median", "trimmed_mean", "krum")


def plain(name: str, rows: list[list[float]], **p: float) -> list[float]:
    """The rules of the papers, coordinate by coordinate and in plain Python."""
    n = len(rows)
    columns = [sorted(column) for column in zip(*rows, strict=True)]
    if name == "median":
        return [(column[(n - 1) // 2] + column[n // 2]) / 2 for column in columns]
    if name == "trimmed_mean":
        out = math.floor(p["trim"] * n + 1e-9)
        return [sum(column[out : n - out]) / (n - 2 * out) for column in columns]
    scores = []
    for one in range(n):
        apart = sorted(sum((a - b) ** 2 for a, b in zip(rows[one], rows[k], strict=True)) for k in range(n) if k != one)
        scores.append(sum(apart[: n - int(p["attackers"]) - 2]))
    chosen = sorted(range(n), key=lambda one: (scores[one], one))[: int(p["kept"])]
    return [sum(rows[one][j] for one in chosen) / len(chosen) for j in range(len(rows[0]))]


@settings(max_examples=examples(60), deadline=None)
@given(
    st.integers(5, 9), st.integers(1, 6), st.integers(0, 2**32), st.sampled_from(RULES), st.integers(1, 3),
    st.sampled_from([0.2, 0.25, 0.4]),
)  # fmt: skip
def test_each_rule_is_that_of_its_paper(n: int, d: int, seed: int, name: str, kept: int, trim: float) -> None:
    rows = np.random.default_rng(seed).integers(-8, 8, (n, d)).astype(np.float32)  # small integers: no rounding
    asked = {"median": {}, "trimmed_mean": {"trim": trim}, "krum": {"attackers": 1, "kept": kept}}[name]
    wanted = plain(name, rows.tolist(), **asked)
    assert combined(name, rows, asked) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("sent", [1e6, -1e6, 0.0])
def test_one_attacker_of_five_cannot_move_it_beyond_what_honest_sites_sent(name: str, sent: float) -> None:
    honest = np.random.default_rng(3).normal(1.0, 0.1, (4, 2000)).astype(np.float32)
    for place in range(5):
        made = combined(name, np.insert(honest, place, np.full(2000, sent), axis=0), {})
        assert (honest.min(axis=0) - 1e-6 <= made).all()
        assert (made <= honest.max(axis=0) + 1e-6).all()


@pytest.mark.parametrize("name", RULES)
def test_what_all_send_is_what_comes_out_in_any_order_and_any_length(name: str) -> None:
    same = np.random.default_rng(0).normal(size=robust._BLOCK + 3).astype(np.float32)
    assert combined(name, np.stack([same] * 5), {}) == pytest.approx(same, rel=1e-6)
    rows = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    first = combined(name, rows, {})
    for pair in combinations(range(5), 2):
        swapped = rows.copy()
        swapped[list(pair)] = rows[list(pair[::-1])]
        assert combined(name, swapped, {}) == pytest.approx(first, rel=1e-6)


def test_too_few_updates_are_refused() -> None:
    for name, params, least in (
        ("median", {}, 3),
        ("trimmed_mean", {"trim": 0.1}, 10),
        ("krum", {"attackers": 2}, 7),
        ("krum", {"attackers": 2, "kept": 5}, 7),
        ("krum", {"attackers": 2, "kept": 8}, 10),
    ):
        combined(name, np.zeros((least, 2), np.float32), params)
        with pytest.raises(StrategyUnknown, match="makes nothing"):
            combined(name, np.zeros((least - 1, 2), np.float32), params)
    with pytest.raises(StrategyUnknown, match="makes nothing"):
        combined("fedavg", np.zeros((9, 2), np.float32), {})


def test_krum_never_keeps_so_many_that_an_attackers_update_is_among_them() -> None:
    for sites in range(5, 9):
        rows = np.zeros((sites, 2), np.float32)
        rows[0] = 1e6
        for kept in range(1, sites):
            assert combined("krum", rows, {"attackers": 1, "kept": kept}).tolist() == [0, 0]
        with pytest.raises(StrategyUnknown):
            combined("krum", rows, {"attackers": 1, "kept": sites})


def test_counts_are_whole() -> None:
    with pytest.raises(StrategyUnknown) as caught:
        strategy_named("krum").settings({"attackers": 1.5, "kept": 0})
    assert {fault.path for fault in caught.value.errors} == {"/attackers", "/kept"}
    assert [name for name, one in STRATEGIES.items() if one.rule is not None] == list(RULES)
