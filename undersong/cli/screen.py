"""Consoles that show what others wrote, and do nothing else; see `undersong.shared.terminal`."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from undersong.shared.terminal import shown


class _Screen(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        """Make a text; here already as it is shown, so that tables measure it rightly."""
        return super().render_str(shown(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments with their texts as they are shown; what moves the cursor is rich's own.

        All that rich writes comes through here: lines, tables, and what a live display repeats.
        """
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)


def screen(**options: Any) -> Console:
    """Return a console whose texts are shown as `shown` has them; its own colours and lines stay."""
    return _Screen(**options)
