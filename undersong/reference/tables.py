"""Tables of Markdown."""

import json
from collections.abc import Iterable, Sequence


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; without rows, nothing."""
    listed = [_row(cells) for cells in rows]
    if not listed:
        return ""
    return "\n".join([_row(titles), _row(["---"] * len(titles)), *listed]) + "\n"


def plain(text: str) -> str:
    """Return a docstring or help text as one paragraph of Markdown."""
    return " ".join(text.replace("``", "`").split())


def value(default: object) -> str:
    """Return a default as it is written in a document; a dash where there is none, or an empty one."""
    return "–" if default in (None, [], {}, ()) else f"`{json.dumps(default, ensure_ascii=False)}`"


def sentence(text: str) -> str:
    """Return a description as a sentence: a capital first, a point at the end."""
    text = plain(text)
    return text if not text or text.endswith((".", "…")) else f"{text[:1].upper()}{text[1:]}."


def _row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
