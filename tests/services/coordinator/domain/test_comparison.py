"""Settings that differ, and the order of metrics."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.services.coordinator.domain.comparison import differing, metric_names

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.text("ab/~", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("xy/~", min_size=1, max_size=2), inner),
    max_leaves=6,
)
DOCUMENTS = st.lists(st.dictionaries(st.sampled_from("abc"), VALUES), min_size=1, max_size=3)


def test_equal_numbers_are_one_setting_and_truths_are_none() -> None:
    assert differing([{"a": 1, "b": 1}, {"a": 1.0, "b": True}])[0].path == "/b"
    assert differing([{"name": "x", "federation_id": "f"}, {"name": "y", "federation_id": "g"}]) == []
    found = differing([{"a": {"b/c": [1]}}, {"a": {}}])
    assert [(each.path, each.values) for each in found] == [("/a/b~1c", ([1], None))]


@settings(max_examples=examples(60), deadline=None)
@given(DOCUMENTS)
def test_a_document_differs_in_nothing_from_itself(documents: list[dict[str, object]]) -> None:
    """Each path once; a copy adds no difference."""
    found = differing(documents)
    assert len({each.path for each in found}) == len(found)
    assert [each.path for each in differing([*documents, documents[-1]])] == [each.path for each in found]


def test_the_metrics_that_most_people_look_for_come_first() -> None:
    assert metric_names([{"recall": [], "examples": []}, {"auc": [], "auc_error": []}]) == ["auc", "recall"]
