"""Canonical documents."""

import json
import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undersong.shared.wire.canonical import NotCanonical, canonical, digest_document

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
DOCUMENTS = st.dictionaries(
    st.text(max_size=8),
    st.recursive(SCALARS, lambda s: st.lists(s, max_size=4) | st.dictionaries(st.text(max_size=4), s, max_size=4)),
    max_size=6,
)


def shuffled(value):
    """The same document with every map in reverse order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(DOCUMENTS)
def test_order_of_keys_changes_nothing(document) -> None:
    assert canonical(document) == canonical(shuffled(document))


@given(DOCUMENTS)
def test_a_journey_through_json_changes_nothing(document) -> None:
    assert canonical(json.loads(json.dumps(document))) == canonical(document)


def test_whole_floats_and_integers_are_one() -> None:
    assert digest_document({"eta": 1.0}) == digest_document({"eta": 1})
    assert digest_document({"eta": True}) != digest_document({"eta": 1})
    assert msgpack.unpackb(canonical({"x": 2.0**60})) == {"x": 2.0**60}


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        b"bytes",
        {1: 2},
        {"a": {3}},
        2**64,
        -(2**63) - 1,
        "\ud800",
        {"\ud800": 1},
        object(),
    ],
)
def test_what_has_no_one_form_is_refused(value) -> None:
    with pytest.raises(NotCanonical):
        canonical({"x": value})


def test_depth_is_limited() -> None:
    document: dict[str, object] = {}
    for _ in range(40):
        document = {"x": document}
    with pytest.raises(NotCanonical):
        canonical(document)


def test_the_form_is_fixed() -> None:
    """A change of the form would break every signature that was ever made."""
    assert canonical({"b": [1, None, "é"], "a": 0.5}).hex() == "82a161cb3fe0000000000000a1629301c0a2c3a9"
