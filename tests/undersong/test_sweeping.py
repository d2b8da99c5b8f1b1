"""Grids and random draws: every combination once, the same for the same seed, typos told."""

import pytest

from undersong.errors import UndersongError
from undersong.services.coordinator.domain import sweeps
from undersong.sweeping import MOST, drawn, grid, varied


def test_a_grid_has_every_combination() -> None:
    found = varied(["strategy.params.eta=0.1,0.3", "/recipe/params/hidden=[16], [32, 8]", "recipe.params.model=mlp"])
    assert grid(found) == [
        {"strategy": {"params": {"eta": eta}}, "recipe": {"params": {"hidden": hidden, "model": "mlp"}}}
        for eta in (0.1, 0.3)
        for hidden in ([16], [32, 8])
    ]


def test_draws_are_within_their_ranges_and_of_their_kinds() -> None:
    found = varied(["a=0.001..0.1:log", "b=1..64", "c=1..1024:log", "d=-1.5..2", "e=x,y"])
    made = drawn(found, 200, seed=7)
    assert len(made) == 200
    assert made == drawn(found, 200, seed=7) != drawn(found, 200, seed=8)
    for each in made:
        assert 0.001 <= each["a"] <= 0.1
        assert isinstance(each["b"], int)
        assert 1 <= each["b"] <= 64
        assert isinstance(each["c"], int)
        assert 1 <= each["c"] <= 1024
        assert -1.5 <= each["d"] <= 2
        assert each["e"] in ("x", "y")
    assert 60 <= sum(each["a"] < 0.01 for each in made) <= 140, "even in the logarithm"


def test_fewer_values_than_draws_give_each_once() -> None:
    assert sorted(each["a"] for each in drawn(varied(["a=1,2,3"]), 50, 0)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["lr"], "is no setting"), (["=1"], "is no setting"), (["a..b=1"], "is no setting"), (["a="], "has no values"),
        (["a=1,1"], "a value twice"), (["a={"], "cannot be read"),
        (["a=1", "a.b=2"], "varied twice"), (["a=3..1"], "is empty"), (["a=0..1:log"], "no logarithm"),
    ],
)  # fmt: skip
def test_what_is_no_variation_is_refused(settings: list[str], said: str) -> None:
    with pytest.raises(UndersongError, match=said):
        varied(settings)


def test_a_range_has_no_grid() -> None:
    with pytest.raises(UndersongError, match="a range"):
        grid(varied(["a=1..2"]))


def test_more_jobs_than_a_sweep_has_are_refused_before_they_are_made() -> None:
    assert MOST == sweeps.MOST
    many = ",".join(map(str, range(1000)))
    with pytest.raises(UndersongError, match="at most 200 jobs"):
        grid(varied([f"{name}={many}" for name in "abcdefgh"]))
    with pytest.raises(UndersongError, match="at most 200 jobs"):
        drawn(varied(["a=0.1..0.2"]), 10**12, 0)
