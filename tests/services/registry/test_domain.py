import pytest
from hypothesis import given
from hypothesis import strategies as st

from undersong.services.registry.domain import RangeNotSatisfiable, asked_range, natural_key
from undersong.shared.ids import Digest

sizes = st.integers(1, 1000)


@given(size=sizes, first=st.integers(0, 1200), last=st.integers(0, 1200))
def test_a_range_is_what_slicing_gives(size: int, first: int, last: int) -> None:
    data = bytes(size)
    if last < first:
        assert asked_range(f"bytes={first}-{last}", size) is None
    elif first >= size:
        with pytest.raises(RangeNotSatisfiable):
            asked_range(f"bytes={first}-{last}", size)
    else:
        part = asked_range(f"bytes={first}-{last}", size)
        assert part is not None
        assert data[slice(*part)] == data[first : last + 1]


@given(size=sizes, count=st.integers(1, 1200))
def test_a_suffix_is_the_end(size: int, count: int) -> None:
    assert asked_range(f"bytes=-{count}", size) == (max(0, size - count), size)


@given(size=sizes, first=st.integers(0, 999))
def test_an_open_range_goes_to_the_end(size: int, first: int) -> None:
    if first < size:
        assert asked_range(f"bytes={first}-", size) == (first, size)


@pytest.mark.parametrize(
    "header", [None, "", "bytes=-", "bytes=1-2,4-5", "lines=1-2", "bytes=a-b", "bytes=1", "bytes=²-"]
)
def test_other_headers_mean_everything(header: str | None) -> None:
    assert asked_range(header, 10) is None


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=-0", "bytes=10-20"])
def test_ranges_outside_are_refused_with_the_size(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as refusal:
        asked_range(header, 10)
    assert refusal.value.extra == {"size": 10}


def test_a_round_publishes_once_and_an_import_once_per_content() -> None:
    digest = Digest("ab" * 32)
    assert natural_key("job_1", "rnd_1", digest) == "job_1/rnd_1"
    assert natural_key(None, None, digest) == natural_key("job_1", None, digest) == f"import/{digest}"
