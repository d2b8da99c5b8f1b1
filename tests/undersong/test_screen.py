"""What others wrote is shown on the terminal, and never obeyed by it."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from undersong.cli.screen import screen, shown

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
