"""A document for people in sections: sentences and one table each, as HTML and as Markdown. Plain values only."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1b1f24;"
    "background:#fff}h1{line-height:1.2}h2{margin-top:2rem;border-bottom:1px solid #ccc}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;"
    "border-bottom:1px solid #ddd;overflow-wrap:break-word}@media print{body{margin:0;max-width:none}"
    "tr,h2{break-inside:avoid}h2{break-after:avoid}}"
)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, sentences, and a table; without a `head`, its rows are names with what belongs to them."""

    title: str
    sentences: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def html_page(title: str, sections: Sequence[Section]) -> str:
    """Return a whole HTML file that needs nothing else: its style is inside, and it has no script."""
    body = "\n".join(part for section in sections for part in _html(section))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def _html(section: Section) -> Iterator[str]:
    yield f"<h2>{escape(section.title)}</h2>"
    yield from (f"<p>{escape(sentence)}</p>" for sentence in section.sentences)
    if section.rows:
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in section.head)
        yield "<table>" + (f"<thead><tr>{head}</tr></thead>" if head else "") + "<tbody>"
        yield from (_html_row(row, named=not section.head) for row in section.rows)
        yield "</tbody></table>"


def _html_row(row: Iterable[str], *, named: bool) -> str:
    first, *rest = (escape(cell) for cell in row)
    lead = f'<th scope="row">{first}</th>' if named else f"<td>{first}</td>"
    return f"<tr>{lead}{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>"


def markdown_page(title: str, sections: Sequence[Section]) -> str:
    """Return a Markdown file; what a table's cell or a sentence holds is shown as it is."""
    parts = [f"# {_plain(title)}"]
    for section in sections:
        parts.append(f"## {_plain(section.title)}")
        parts += [_plain(sentence) for sentence in section.sentences]
        if section.rows:
            head = section.head or ("",) * len(section.rows[0])
            lines = [head, ("---",) * len(head), *([_plain(cell) for cell in row] for row in section.rows)]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Text without a meaning in Markdown or HTML, on one line."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
