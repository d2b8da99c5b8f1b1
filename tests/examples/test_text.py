"""The example with texts in a small version: made plays, whose roles are clients that learn the next character."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from undersong.simulate import simulate

TEXT = Path(__file__).parents[2] / "examples" / "text"


def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("text_prepare", TEXT / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def job(**changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load((TEXT / "job.yaml").read_text()), **changes}


WORKS = """\ufeffThe Complete Works

THE TRAGEDY OF THE CAT

Contents

ACT I
Scene I. A mat.

CAT.
Who sits [_aside_] upon the mat?
I sit.

Enter Dog.

DOG.
Nay, I.
It is my mat.

CAT.
[_Exit._]

SECOND CAT.
One speech alone.

CAT.
So be it.

DOG.
Woof.

A COMEDY OF MATS

Contents

ACT I

CAT.
Another play.

CAT.
Another cat.
"""


def test_speeches_are_cut_at_their_headings_and_divided_by_role() -> None:
    found = {(role.play, role.name): (role.train, role.test) for role in module().roles_of(WORKS)}
    assert found == {
        ("THE TRAGEDY OF THE CAT", "Cat"): ("Who sits  upon the mat?\nI sit.", "So be it."),
        ("THE TRAGEDY OF THE CAT", "Dog"): ("Nay, I.\nIt is my mat.", "Woof."),
        ("A COMEDY OF MATS", "Cat"): ("Another play.", "Another cat."),
    }
    with pytest.raises(ValueError, match="no role with two speeches"):
        module().write_rows(module().roles_of("Once upon a time"), TEXT / "nowhere")


def test_every_character_but_the_first_is_predicted_once() -> None:
    text = "".join(chr(65 + at % 26) for at in range(1234))
    rows = list(module().passages(text))
    assert text[0] + "".join(row[1:] for row in rows) == text
    assert max(map(len, rows)) == module().PASSAGE
    assert list(module().passages("x")) == ["x"]


def test_roles_learn_the_next_character(tmp_path: Path) -> None:
    prepare = module()
    said = "the cat sat on the mat and the dog sat on the cat. "
    roles = [prepare.Role("A PLAY", f"Role {at}", said * 9, said * 2) for at in range(3)]
    roles.append(prepare.Role("A PLAY", "Foreigner", "ß" * 90, "ß"))
    file = tmp_path / "roles.jsonl"
    file.write_text("\n".join(json.dumps({**role._asdict(), "role": role.name}) for role in roles))
    declared = prepare.write_rows(prepare.read_roles(file), tmp_path / "rows")
    short = job(rounds=6, evaluation={"every": 6})
    run = simulate(short, declared, partition="by:role", workers=0, out=tmp_path / "run")
    assert run.simulated["clients"] == 4
    assert run.metrics["tokens"] == 3 * (2 * len(said) - 1)
    assert run.metrics["accuracy"] > 0.3
    assert run.metrics["known"] == 1.0
    statistics, first = run.rounds[:2]
    assert (statistics.kind, first.kind) == ("statistics", "initialise")
