"""How batches are shared between processes; what they compute together: tests/services/agent/runner/test_ranks.py."""

from hypothesis import given
from hypothesis import strategies as st

from undersong.recipes.parallel import ALONE, Ranks


@given(rows=st.integers(0, 1000), size=st.integers(1, 64))
def test_each_row_of_a_batch_is_one_processes_part(rows: int, size: int) -> None:
    parts = [range(rows)[Ranks(rank, size).part(rows)] for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_computes_everything_without_the_others() -> None:
    assert ALONE.part(7) == slice(0, 7)
    assert (ALONE.total(1.5), ALONE.of_first(2.5)) == (1.5, 2.5)
    ALONE.add_gradients([])
