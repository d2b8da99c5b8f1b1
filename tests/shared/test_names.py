"""Near matches, and the faults of documents."""

import unicodedata
from collections import Counter
from difflib import SequenceMatcher
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tests.near_misses import misspelt
from undersong.shared import names
from undersong.shared.documents import document_faults, known_fields
from undersong.shared.names import (
    LONGEST_COMPARED,
    MEANT,
    MOST_COMPARED,
    MOST_HINTED,
    MOST_LOOKED,
    Hints,
    as_seen,
    differences,
    hint,
    looks_like,
    looks_same,
    near,
    twins,
)


@given(st.text("abcdefgh_1", min_size=1, max_size=10).flatmap(lambda name: st.tuples(st.just(name), misspelt(name))))
def test_one_wrong_character_is_always_near(names: tuple[str, str]) -> None:
    name, wrong = names
    assert name in near(wrong, [name, "something-else-entirely"])


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("AUC", ["auc", "loss"], "; did you mean 'auc'? Known: auc, loss"),
        ("colour", ["x"], "; known: x"),
        ("anything", [], ""),
        ("y", ["x"], "; did you mean 'x'? Known: x"),
    ],
)
def test_a_hint_names_what_is_near_and_what_is_known(name: str, known: list[str], said: str) -> None:
    assert hint(name, known) == said


@pytest.mark.parametrize(
    ("one", "other", "points"),
    [
        ("Ko\u0308ln", "K\u00f6ln", "U+006F (LATIN SMALL LETTER O) U+0308 (COMBINING DIAERESIS) where that has U+00F6"),
        ("K\u00f6ln", "Ko\u0308ln", "U+00F6 (LATIN SMALL LETTER O WITH DIAERESIS) where that has U+006F"),
        ("u\u0308", "\u00fc", "U+0308 (COMBINING DIAERESIS)"),
        ("a\u00a0b", "a b", "U+00A0 (NO-BREAK SPACE) where that has U+0020 (SPACE)"),
        ("a\u2009b", "a\u202fb", "U+2009 (THIN SPACE) where that has U+202F (NARROW NO-BREAK SPACE)"),
        ("a\tb", "a b", "U+0009 (no name) where that has U+0020 (SPACE)"),
        ("a  b", "a b", "U+0020 (SPACE) where that has nothing"),
        ("yes\u200b", "yes", "U+200B (ZERO WIDTH SPACE) where that has nothing"),
        ("\ufeffyes", "yes", "U+FEFF (ZERO WIDTH NO-BREAK SPACE) where that has nothing"),
        ("so\u00adne", "sone", "U+00AD (SOFT HYPHEN) where that has nothing"),
        ("\u0410", "A", "U+0410 (CYRILLIC CAPITAL LETTER A) where that has U+0041 (LATIN CAPITAL LETTER A)"),
        ("\u00b5g", "\u03bcg", "U+00B5 (MICRO SIGN) where that has U+03BC (GREEK SMALL LETTER MU)"),
        ("5\u20137", "5-7", "U+2013 (EN DASH) where that has U+002D (HYPHEN-MINUS)"),
        ("\uff21", "A", "U+FF21 (FULLWIDTH LATIN CAPITAL LETTER A)"),
    ],
)
def test_texts_that_look_the_same_are_told_apart_by_their_code_points(one: str, other: str, points: str) -> None:
    assert looks_same(one, other)
    assert points in differences(one, other)
    assert looks_like(one, ["x", other]).startswith(f"; it looks like {other!r} but has ")
    assert points in hint(one, ["x", other])
    assert near(one, ["x", other])[0] == other
    assert twins([one, "q"], ["q", other]).startswith(f"; {one!r} looks like {other!r} but has ")


@given(st.text(max_size=20), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_every_form_of_a_text_looks_the_same(text: str, form: str) -> None:
    other = unicodedata.normalize(form, text)
    assert looks_same(text, other) == (text != other)
    assert bool(looks_like(text, [other])) == (text != other)
    assert as_seen(as_seen(text)) == as_seen(text)


@pytest.mark.parametrize(
    ("one", "other"), [("Koln", "K\u00f6ln"), ("a", "A"), ("ab", "a b"), ("1", "l"), ("yes", "yes")]
)
def test_texts_that_look_different_are_no_twins(one: str, other: str) -> None:
    assert (looks_same(one, other), looks_like(one, [other]), twins([one], [other])) == (False, "", "")


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mode: Literal["min", "max"] = "max"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    parts: dict[str, list[Inner]] = {}
    best: Inner | None = None


@pytest.mark.parametrize("kind", ["a", "é", "a\n", "a\u200b"])
def test_a_text_that_is_no_name_is_like_none_and_costs_nothing(kind: str) -> None:
    """A cell that swallowed half a file: comparing it with each of many categories would take hours."""
    text, known = kind * 2_000_000, [f"category {place}" for place in range(1000)]
    assert near(text, known) == []
    assert looks_like(text, known) == ""
    assert near("category 7", [text, "category 1"]) == ["category 1"]


@pytest.mark.parametrize("length", [10, 190, 900])
def test_the_work_for_many_long_names_is_bounded(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names are known and unknown; what is one edit away is found all the same."""
    counts = Counter[str]()

    class Counting(SequenceMatcher[str]):
        def quick_ratio(self) -> float:
            counts["quick"] += 1
            return super().quick_ratio()

        def ratio(self) -> float:
            counts["full"] += 1
            assert len(self.a) * len(self.b) <= LONGEST_COMPARED**2
            return super().ratio()

    monkeypatch.setattr(names, "SequenceMatcher", Counting)
    known = [f"{place:05d}{'x' * length}"[:length] for place in range(5000)]
    hints = Hints(known)
    said = [hints(f"{name}y") for name in known[:200]]
    assert all(MEANT in each for each in said[:MOST_HINTED])
    assert set(said[MOST_HINTED:]) == {""}
    assert counts["quick"] <= MOST_HINTED * MOST_LOOKED
    assert counts["full"] <= MOST_HINTED * MOST_COMPARED
    assert near("swap_this", [*known, "swpa_this"]) == ["swpa_this"]


@pytest.mark.parametrize(
    ("document", "path", "word"),
    [
        ({"bets": {}}, "/bets", "'best'"),
        ({"best": {"mdoe": "max"}}, "/best/mdoe", "'mode'"),
        ({"parts": {"parts": [{"moed": "min"}]}}, "/parts/parts/0/moed", "'mode'"),
        ({"parts": {"a/b": [{"mode": "mox"}]}}, "/parts/a~1b/0/mode", "'max'"),
    ],
)
def test_every_fault_has_its_path_and_what_was_meant(document: dict[str, object], path: str, word: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Outer.model_validate(document)
    (fault,) = document_faults(refused.value, Outer)
    assert fault.path == path
    assert word in fault.message
    assert known_fields(Outer, ("best",)) == ["mode"]


class Chosen(BaseModel):
    measures: list[Literal["moments", "table"]] | Literal["*"] = "*"
    names: tuple[str, ...] = Field(default=(), min_length=1, max_length=2)


def test_the_branches_of_a_choice_between_forms_are_no_places() -> None:
    """A typo in a list that may also be ``*`` is one fault, at its place in the document."""
    with pytest.raises(ValidationError) as refused:
        Chosen.model_validate({"measures": ["moments", "tabel"]})
    (fault,) = document_faults(refused.value, Chosen)
    assert fault.path == "/measures/1"
    assert "did you mean 'table'?" in fault.message
    with pytest.raises(ValidationError) as refused:
        Chosen.model_validate({"measures": "tabel"})
    (fault,) = document_faults(refused.value, Chosen)
    assert fault.path == "/measures"
    assert fault.message == "a list is needed here, or: 'tabel' is not a choice here; known: *"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("a", "a list is needed here"),
        (["a", 3], "a text is needed here: put it in quotes"),
        ([], "1 or more are needed here, not 0"),
        (["a", None], "a text is needed here"),
        (["a", "b", "c"], "2 or fewer are allowed here, not 3"),
    ],
)
def test_a_wrong_shape_is_told_in_the_words_of_documents(names: object, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Chosen.model_validate({"names": names})
    assert [fault.message for fault in document_faults(refused.value, Chosen)] == [said]
