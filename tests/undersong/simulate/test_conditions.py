"""Conditions that are none are refused in one sentence that says what to write."""

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undersong.simulate.conditions import ConditionsInvalid, conditions_of, partition_of, sample_of, slow_of, workers_of
from undersong.simulate.loading import load_rows

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"partition": "dirichlt:0.3"}, "did you mean 'dirichlet'"),
    ({"partition": "dirichlet"}, "needs a concentration"),
    ({"partition": "dirichlet:-1"}, "needs a concentration"),
    ({"partition": "dirichlet:nan"}, "needs a concentration"),
    ({"partition": "shard:2"}, "did you mean 'shards'"),
    ({"partition": "shards:1.5"}, "whole number"),
    ({"partition": "shards:0"}, "whole number"),
    ({"partition": "iid:3"}, "takes no value"),
    ({"partition": "by"}, "needs a column"),
    ({"partition": ""}, "no partition ''"),
    ({"sample": "0"}, "no share"),
    ({"sample": "1.5"}, "no share"),
    ({"sample": "100"}, "no share"),
    ({"sample": "nan"}, "no share"),
    ({"sample": "poison:0.1"}, "did you mean 'poisson'"),
    ({"sample": "poisson:"}, "no share"),
    ({"drop": 1.0}, "probability"),
    ({"drop": -0.1}, "probability"),
    ({"drop": float("nan")}, "probability"),
    ({"seed": -1}, "seed"),
    ({"engine": "quantized"}, "did you mean 'quantised'"),
    ({"engine": "pairwise"}, "no engine"),
    ({"clients": 0}, "0 clients"),
    ({"noise_servers": 3}, "3 servers"),
    ({"slow": "lognorml:1"}, "did you mean 'lognormal'"),
    ({"slow": "lognormal"}, "no way to be slow"),
    ({"slow": "lognormal:-1"}, "needs a spread"),
    ({"slow": "lognormal:1e9"}, "needs a spread"),
    ({"slow": "10"}, "no way to be slow"),
    ({"slow": "0:10"}, "needs a share"),
    ({"slow": "0.1:0.5"}, "needs a share"),
    ({"slow": "0.1:1e300"}, "needs a share"),
    ({"slow": "lognormal:1", "round_s": 0.0}, "0 seconds"),
    ({"slow": "lognormal:1", "round_s": float("nan")}, "nan seconds"),
    ({"round_s": 5.0}, "give --slow"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_refused_in_a_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConditionsInvalid) as refused:
        conditions_of(**given)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.remedy


@given(st.text(max_size=30))
def test_no_text_breaks_a_parser(text: str) -> None:
    for parse in (partition_of, sample_of, slow_of, lambda given: workers_of(given, 2)):
        with suppress(ConditionsInvalid):
            parse(text)


@pytest.mark.parametrize(("given", "made"), [("auto", 2), ("3", 3), (0, 0)])
def test_workers(given: str | int, made: int) -> None:
    assert workers_of(given, 2) == made


@pytest.mark.parametrize("text", ["iid", "dirichlet:0.3", "shards:2", "by:country"])
def test_a_partition_prints_as_it_is_written(text: str) -> None:
    assert str(partition_of(text)) == text


def test_a_mapping_of_files_is_refused_with_what_to_give() -> None:
    files: dict[str, Any] = {"north": "north.yaml"}
    with pytest.raises(ConditionsInvalid, match="what it has for north") as refused:
        load_rows(files, {}, [], conditions_of(), 0)
    assert "as a list" in str(refused.value.remedy)


@pytest.mark.parametrize(
    "asked", [{"clients": 1.5}, {"clients": True}, {"seed": 1.5}, {"seed": True}, {"seed": math.nan}]
)
def test_counts_and_seeds_are_whole_numbers(asked: dict[str, Any]) -> None:
    with pytest.raises(ConditionsInvalid):
        conditions_of(**asked)
