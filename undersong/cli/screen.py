"""Consoles that show what others wrote, and do nothing else: a terminal obeys some characters instead of showing them.

Names, columns and the sentences of faults come from sites and other people. Escape sequences in them could rewrite what
stands on the screen, or set the clipboard.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

_OBEYED: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that turn the direction of the text that follows."""


def shown(text: str) -> str:
    """Return a text with each character that terminals obey exchanged for U+FFFD."""
    return _OBEYED.sub("\ufffd", text)


def screen(**options: Any) -> Console:
    """Return a console whose texts are shown as `shown` has them; its own colours and lines stay."""
    made = Console(**options)
    made.push_render_hook(_Showing())
    return made


class _Showing(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Put each between the console and what it prints."""
        return [_Shown(renderable) for renderable in renderables]


class _Shown:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the segments with their texts as they are shown; what moves the cursor is rich's own."""
        found: Iterable[Segment] = console.render(self._renderable, options)
        for segment in found:
            yield segment if segment.control else Segment(shown(segment.text), segment.style)
