"""Answers as HTML, for notebooks: a table of their fields; of a job, how far it is. No script, no style sheet."""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from importlib import import_module
from typing import Any, Final

LONGEST: Final = 200  # characters of one value
MOST: Final = 20  # entries of a list or mapping
_SHADES: Final = {"succeeded": "#17704a", "failed": "#a3262a", "cancelled": "#55605e", "paused": "#8a5300"}


def html_of(title: str, fields: Mapping[str, Any], *, bar: tuple[int, int] | None = None, state: str = "") -> str:
    """Return a table; `bar` is how much of how much is done. What is empty is left out; everything is escaped."""
    head = f"<strong>{escape(title)}</strong>"
    if state:
        colour = _SHADES.get(state, "#1b5e8c")
        head += f' <span style="border:1px solid {colour};border-radius:.6em;padding:0 .5em">{escape(state)}</span>'
    if bar is not None:
        done, whole = bar
        head += f' <progress value="{done}" max="{max(1, whole)}"></progress> {done} of {whole}'
    rows = "".join(
        f'<tr><th style="text-align:left;vertical-align:top">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(text_of(value))}</td></tr>'
        for name, value in fields.items()
        if value not in (None, "", [], {}, ())
    )
    return f"<div>{head}<table>{rows}</table></div>"


def text_of(value: Any) -> str:
    """Return a value in a line, cut where it is long."""
    if isinstance(value, Mapping):
        shown = ", ".join(f"{name}: {text_of(each)}" for name, each in list(value.items())[:MOST])
        text = shown + (", …" if len(value) > MOST else "")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        text = ", ".join(text_of(each) for each in value[:MOST]) + (", …" if len(value) > MOST else "")
    elif isinstance(value, datetime):
        text = value.strftime("%Y-%m-%d %H:%M:%S %Z")
    elif isinstance(value, float):
        text = f"{value:.5g}"
    else:
        text = str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


class NotebookOutput:
    """An answer below a notebook's cell that follows what it becomes. Outside notebooks nothing is shown."""

    def __init__(self) -> None:
        """Look whether this is a notebook: IPython with a kernel, which a shell of IPython has not."""
        found = sys.modules.get("IPython")
        shell = None if found is None else found.get_ipython()
        self.there = shell is not None and hasattr(shell, "kernel")
        self._handle: Any = None

    def show(self, answer: object) -> None:
        """Show the answer, in the place of the one before."""
        if not self.there:
            return
        if self._handle is not None:
            self._handle.update(answer)
            return
        self._handle = import_module("IPython.display").display(answer, display_id=True)
