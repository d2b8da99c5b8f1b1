"""Weights of changes by their age, against the formula in plain Python."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.shared.ids import SiteId, VersionId
from undersong.shared.learning.staleness import mean_weight, stale_weight
from undersong.shared.wire.manifest import BufferedChange


@settings(max_examples=examples(50))
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20), st.data())
def test_the_mean_weight_is_that_of_the_survivors(ages: list[int], data: st.DataObject) -> None:
    changes = [
        BufferedChange(site_id=SiteId(f"site_{at}"), version_id=VersionId("ver_1"), staleness=age)
        for at, age in enumerate(ages)
    ]
    survivors = data.draw(st.sets(st.sampled_from(range(len(ages))), min_size=1))
    expected = sum(1 / math.sqrt(1 + ages[at]) for at in survivors) / len(survivors)
    found = mean_weight(changes, {SiteId(f"site_{at}") for at in survivors})
    assert found == pytest.approx(expected)
    assert 0 < found <= 1


def test_no_change_is_newer_than_its_version_and_no_stranger_is_weighed() -> None:
    with pytest.raises(ValueError, match="newer"):
        stale_weight(-1)
    with pytest.raises(ValueError, match="other sites"):
        mean_weight([], {SiteId("site_1")})
