"""Near matches, and the faults of documents."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from shared.documents import document_faults, known_fields
from shared.names import hint, near
from tests.near_misses import misspelt


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


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mode: Literal["min", "max"] = "max"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    parts: dict[str, list[Inner]] = {}
    best: Inner | None = None


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
    measures: list[Literal["moments", "table"]] | Literal["*"]


def test_the_branches_of_a_choice_between_forms_are_no_places() -> None:
    """A typo in a list that may also be ``*`` is one fault, at its place in the document."""
    with pytest.raises(ValidationError) as refused:
        Chosen.model_validate({"measures": ["moments", "tabel"]})
    (fault,) = document_faults(refused.value, Chosen)
    assert fault.path == "/measures/1"
    assert "did you mean 'table'?" in fault.message
    with pytest.raises(ValidationError) as refused:
        Chosen.model_validate({"measures": 5})
    assert {fault.path for fault in document_faults(refused.value, Chosen)} == {"/measures"}
