"""YAML that guesses nothing: only what JSON has is more than a text."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from undersong.shared.yaml_texts import NotYaml, dump_document, load_document, load_texts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
@example({"a\x85b": ["\u2028", "\u2029", "0E0", "1e5"]})
def test_what_is_dumped_is_loaded(document: Any) -> None:
    """Also texts with the line breaks that PyYAML folds when it reads them."""
    assert load_document(dump_document(document)) == document


@pytest.mark.parametrize(
    "text",
    ["no", "yes", "on", "off", "y", "n", "No", "12:30", "1:00:00", "010", "0x1F", "1_000", "2020-01-31", "0o7", ".inf",
     ".nan", "nan", "None", "NA", "=", "1.2.3", "e5"],
)  # fmt: skip
def test_texts_stay_texts(text: str) -> None:
    assert load_document(f"[{text}]") == load_texts(f"[{text}]") == [text]


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("1.", 1.0), (".5", 0.5), ("-7", -7), ("+1.5E2", 150.0),
                                             ("true", True), ("null", None), ("~", None), ("0", 0)])  # fmt: skip
def test_scalars_of_json_are_read(text: str, value: Any) -> None:
    (found,) = load_document(f"[{text}]")
    assert (found, type(found)) == (value, type(value))
    assert load_texts(f"[{text}]") == [text]


@pytest.mark.parametrize("text", ["a: 1\na: 2", "{b: {a: 1, a: 1}}", "[", "\x00", "[" * 5000, "a: b: c", "--- 1\n--- 2",
                                  '"\\ud800"', '{"\\udc00": 1}', '"\\ude00\\ud83d"',
                                  "!!python/object/apply:os.system [true]", "!!bool maybe", "!!int ''", "!!float ''",
                                  "!!timestamp x", "!!seq {a: 1}", "!!map [1]",
                                  "!!float " + ":".join(["59"] * 999)])  # fmt: skip
def test_what_says_nothing_or_two_things_is_refused(text: str) -> None:
    with pytest.raises(NotYaml):
        load_document(text)


def test_anchors_and_merges_are_read() -> None:
    assert load_document("a: &a {x: 1}\nb: {<<: *a, y: no}") == {"a": {"x": 1}, "b": {"x": 1, "y": "no"}}
    assert load_document("") is None
    assert load_document("a:") == {"a": None}


def test_a_character_that_json_escapes_in_two_halves_is_one() -> None:
    for load in (load_document, load_texts):
        assert load('{"\\ud83d\\ude00": ["\\ud83d\\ude00 x"]}') == {"\U0001f600": ["\U0001f600 x"]}
