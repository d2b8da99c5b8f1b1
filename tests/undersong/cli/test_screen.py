"""What others wrote is shown on the terminal, and never obeyed by it."""

import io
import json

from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress
from rich.table import Table

from undersong.cli.screen import screen
from undersong.shared.terminal import shown, shown_json

EVIL = "alpha\x1b]52;c;ZXZpbA==\x07\x1b[2J\rbeta\x9b31m\u202egamma"


def test_escape_sequences_are_shown_in_lines_and_tables() -> None:
    said = io.StringIO()
    console = screen(file=said, width=200, force_terminal=False)
    table = Table(box=None)
    table.add_column("site")
    table.add_row(EVIL)
    console.print(EVIL, markup=False)
    console.print(table)
    assert "alpha" in said.getvalue()
    assert "gamma" in said.getvalue()
    assert not set(said.getvalue()) & set("\x1b\x07\x9b\r\u202e")


def test_a_progress_bar_shows_them_too() -> None:
    """A live display draws itself beside what is printed, and again and again."""
    said = io.StringIO()
    console = screen(file=said, width=200, force_terminal=True, color_system=None)
    with Progress(console=console, refresh_per_second=100) as progress:
        task = progress.add_task(EVIL, total=2)
        progress.update(task, completed=1, description=EVIL)
        progress.print(EVIL, markup=False)
    assert "beta\ufffd31m" in said.getvalue()
    assert not {"\x07", "\x9b", "\u202e"} & set(said.getvalue())
    assert "\x1b]52" not in said.getvalue()
    assert "\x1b[2J" not in said.getvalue()


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_is_the_same_document_without_what_terminals_obey(document: object) -> None:
    assert json.loads(shown_json(document)) == document
    assert shown(shown_json(document)) == shown_json(document)


def test_colours_of_ours_stay() -> None:
    said = io.StringIO()
    screen(file=said, force_terminal=True, color_system="standard").print("[bold red]error:[/] no\x1b[2Jthing")
    assert "\x1b[1;31merror:" in said.getvalue()
    assert "\x1b[2J" not in said.getvalue()


@given(st.text())
def test_nothing_but_characters_is_left(text: str) -> None:
    made = shown(text)
    assert len(made) == len(text)
    assert all(char.isprintable() or char in "\t\n" or ord(char) > 0x9F for char in made)
