"""What a cell or a header that cannot be read was probably meant to be: the option that would read it."""

import csv
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

from undersong.recipes.entry import NUMBER
from undersong.shared.names import as_seen, looks_like

ABSENT: Final = frozenset({
    "na", "n/a", "#n/a", "n.a.", "n. a.", "#na", "nan", "null", "none", "nil", "?", "??", "-", "--", "---", "–", "—",
    ".", "..", "*", "missing", "unknown", "unk", "not known", "not available", "not applicable", "not done", "n.d.",
    "nd", "empty", "blank", "<na>", "(null)", "k.a.", "k. a.", "ka", "keine angabe", "n.b.", "n. b.", "nicht bekannt",
    "unbekannt", "fehlt", "fehlend", "n.v.", "o.a.", "o.b.", "inconnu", "manquant", "desconocido", "sconosciuto",
    "onbekend", "未知", "不详", "缺失", "无",
})  # fmt: skip
"""What tables write for "not known", in lower case."""
DATES: Final = (
    "%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%Y%m%d", "%d-%m-%Y", "%d.%m.%y",
    "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%d.%m.%Y %H:%M",
)  # fmt: skip
SEPARATORS: Final = (",", ";", "\t", "|")
LINES: Final = 20  # among which a header is looked for
_FORMS: Final = (
    (re.compile(r"[+-]?[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+"), 'csv: {decimal: ",", thousands: "."}'),
    (re.compile(r"[+-]?[0-9]*,[0-9]+"), 'csv: {decimal: ","}'),
    (re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?"), 'csv: {thousands: ","}'),
    (re.compile(r"[+-]?[0-9]{1,3}(?:'[0-9]{3})+(?:\.[0-9]*)?"), 'csv: {thousands: "\'"}'),
    (re.compile(r"[+-]?[0-9]{1,3}(?:\.[0-9]{3}){2,}"), 'csv: {decimal: ",", thousands: "."}'),
    (re.compile(r"[+-]?[0-9]{1,3}(?:[ \u00a0\u2009\u202f][0-9]{3})+(?:\.[0-9]*)?"), 'csv: {thousands: " "}'),
)
_TRUTH: Final = frozenset({"yes", "no", "true", "false", "y", "n", "t", "f", "male", "female", "m"})


def about_number(column: str, text: str) -> str:
    """Return the end of a message about a cell that is no number: the likeliest option, if there is one."""
    if found := about_text(column, text):
        return found
    if not NUMBER.fullmatch(text) and NUMBER.fullmatch(seen := as_seen(text)):
        return looks_like(text, [seen])
    for form, option in _FORMS:
        if form.fullmatch(text):
            return f"; if it is one, declare {option}"
    if date := date_form([text]):
        return f'; if it is a date, declare dates: {{{column}: "{date}"}}'
    if text.casefold() in _TRUTH:
        return f"; declare what it stands for, as in values: {{{column}: {{{quoted(text)}: 1}}}}, or a category column"
    return ""


def about_text(column: str, text: str) -> str:
    """Return the end of a message about a cell that may stand for "not known"."""
    if text.casefold() in ABSENT:
        return f"; if it stands for not known, declare missing: {{{column}: [{quoted(text)}]}}"
    return ""


def quoted(text: str) -> str:
    """Return a text as YAML can hold it: between quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def date_form(texts: Iterable[str]) -> str | None:
    """Return the first common form of dates in which all the texts are written."""
    found = list(texts)
    for form in DATES if found else ():
        with suppress(ValueError):
            for text in found:
                if not any(mark in text for mark in "-./") and form != "%Y%m%d":
                    raise ValueError
                datetime.strptime(text, form)  # noqa: DTZ007 (only whether it can be read)
            return form
    return None


def about_header(lines: Sequence[str], wanted: Iterable[str], separator: str) -> str:
    """Return the end of a message about a header that lacks columns: another separator or line that has more of them.

    `lines` are the first lines of the file, without their ends.
    """
    names = set(wanted)
    best: tuple[int, str, int] = (0, separator, 0)
    for place, line in enumerate(lines[:LINES]):
        for mark in (separator, *SEPARATORS):
            found = len(names & set(fields_of(line, mark)))
            if found > best[0]:
                best = (found, mark, place)
    count, mark, place = best
    options = []
    if mark != separator:
        options.append(f"separator: {quoted('tab' if mark == chr(9) else mark)}")
    if place:
        options.append(f"header: {place + 1}")
    if count and options:
        return f"; declare csv: {{{', '.join(options)}}}"
    first = fields_of(lines[0], separator) if lines else []
    if first and all(re.fullmatch(r"[+-]?[0-9.,]*", text) for text in first):
        return "; the first line holds numbers: if no line holds the names, declare csv: {header: 0, names: [...]}"
    return ""


def fields_of(line: str, separator: str) -> list[str]:
    """Return one line's fields, or none where it is not CSV."""
    try:
        return [field.strip().strip("'") for field in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        return []
