"""Near matches: what a name that refers to nothing was probably meant to be, and where two differ invisibly."""

import re
import unicodedata
from collections.abc import Iterable
from difflib import SequenceMatcher
from heapq import nsmallest
from itertools import islice
from typing import Final

LEAST_RATIO: Final = 0.6
"""As in `difflib.get_close_matches`."""
MOST_NEAR: Final = 3
MOST_LISTED: Final = 20
MOST_HINTED: Final = 20
MOST_COMPARED: Final = 20
MOST_LOOKED: Final = 2000
MOST_DIFFERENCES: Final = 3
LONGEST_COMPARED: Final = 200
LONGEST_NAME: Final = 1000
"""Characters; a longer text, such as a cell that swallowed half a file, is no misspelt name."""
_LETTERS: Final = str.maketrans(
    dict(zip("АВЕЅІЈКМНОРСТУХаеѕіјорсухԁһԛѡѵ", "ABESIJKMHOPCTYXaesijopcyxdhqwv", strict=True))
    | dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧον", "ABEZHIKMNOPTYXov", strict=True))
    | dict.fromkeys("‐‑‒–—―−", "-")
    | dict.fromkeys("‘’ʼ′", "'")
    | dict.fromkeys("“”", '"')
)
"""Cyrillic and Greek letters, dashes and quotes by the ASCII characters that they look like (a part of UTS #39)."""
_IGNORED: Final = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f"
_INVISIBLE: Final = re.compile(f"[{_IGNORED}]")
MEANT: Final = "did you mean "
"""In every hint that has a near match."""


def near(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the known names that are close to `name`, the closest first.

    Letter case does not matter. A name one edit or one swap away is always close, however short it is, and so is one
    that looks the same. Of the others the most promising are compared, up to `MOST_COMPARED` of those with up to
    `LONGEST_COMPARED` characters. A name of more than `LONGEST_NAME` characters is close to none.
    """
    if len(name) > LONGEST_NAME:
        return []
    said, seen = name.casefold(), as_seen(name)
    ranked, others = [], []
    for candidate in dict.fromkeys(known):
        if len(candidate) > LONGEST_NAME:
            continue
        meant = candidate.casefold()
        if candidate != name and as_seen(candidate) == seen:
            ranked.append((-1.0, candidate))
        elif one_edit(said, meant):
            same = min(len(said), len(meant)) - (len(said) == len(meant) and said != meant)
            ranked.append((-2.0 * same / ((len(said) + len(meant)) or 1), candidate))
        elif (least := _length_ratio(said, meant)) >= LEAST_RATIO:
            others.append((-least, meant, candidate))
    if len(said) <= LONGEST_COMPARED:
        ranked += _compared(said, nsmallest(MOST_LOOKED, others))
    return [candidate for _, candidate in sorted(ranked)[:MOST_NEAR]]


def _length_ratio(said: str, meant: str) -> float:
    """Return a bound of their ratio that takes no look at a character."""
    if max(len(said), len(meant)) > LONGEST_COMPARED:
        return 0.0
    return 2.0 * min(len(said), len(meant)) / ((len(said) + len(meant)) or 1)


def _compared(said: str, others: Iterable[tuple[float, str, str]]) -> list[tuple[float, str]]:
    """Compare in full those of the others that share the most characters with `said`."""
    matcher = SequenceMatcher(b=said)
    bounds = []
    for _, meant, candidate in others:
        matcher.set_seq1(meant)
        if (bound := matcher.quick_ratio()) >= LEAST_RATIO:
            bounds.append((-bound, meant, candidate))
    ranked = []
    for _, meant, candidate in nsmallest(MOST_COMPARED, bounds):
        matcher.set_seq1(meant)
        if (ratio := matcher.ratio()) >= LEAST_RATIO:
            ranked.append((-ratio, candidate))
    return ranked


class Hints:
    """Hints for many unknown names among the same known ones: for the first `MOST_HINTED`, then nothing.

    Comparing each of ten thousand names with each of a thousand would take minutes, and no reader needs so many hints.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._known, self._left = list(known), MOST_HINTED

    def __call__(self, name: str) -> str:
        """Return what `hint` does, or an empty text when enough were given."""
        self._left -= 1
        return hint(name, self._known) if self._left >= 0 else ""


def hint(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'auc'? Known: auc, loss" for a message about an unknown name; empty if none is known."""
    names = sorted(dict.fromkeys(known))
    if not names:
        return ""
    close = " or ".join(repr(candidate) for candidate in near(name, names))
    listed = ", ".join(names[:MOST_LISTED]) + (f" and {len(names) - MOST_LISTED} more" * (len(names) > MOST_LISTED))
    return f"; {MEANT}{close}?{_apart(name, names)} Known: {listed}" if close else f"; known: {listed}"


def environment_faults(environment: Iterable[str], prefix: str, settings: Iterable[str]) -> list[str]:
    """Return a sentence for every environment variable that is a misspelling of a setting: one edit from its name.

    Names count without regard to case and to "_"; a field of a part follows "__". Others may be some other
    program's.
    """
    known = sorted(f"{prefix}{name.upper()}" for name in settings)
    faults = []
    for name in sorted(environment):
        said = name.upper().split("__")[0]
        if said.startswith(prefix) and said not in known:
            close = [right for right in known if one_edit(said.replace("_", ""), right.replace("_", ""))]
            faults += [f"{name} is no setting; {MEANT}{right!r}?" for right in close[:1]]
    return faults


def looks_same(one: str, other: str) -> bool:
    """Return whether two different texts cannot be told apart by sight.

    They differ in how accents are composed, in kinds of spaces, in invisible characters, or in letters, dashes and
    quotes of other scripts that look the same. False for texts of more than `LONGEST_NAME` characters.
    """
    return one != other and max(len(one), len(other)) <= LONGEST_NAME and as_seen(one) == as_seen(other)


def as_seen(text: str) -> str:
    """Return what a reader sees of a text, in ASCII where that looks the same: one for all texts that look the same."""
    if text.isascii() and text.isprintable() and "  " not in text and text.strip() == text:
        return text
    seen = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    seen = "".join(c for c in seen if unicodedata.category(c) != "Cf").translate(_LETTERS)
    return " ".join(unicodedata.normalize("NFKC", seen).split())


class Sights:
    """Texts by what a reader sees of them, to look for twins of many texts among many."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts: dict[str, list[str]] = {}
        for text in texts:
            if len(text) <= LONGEST_NAME:
                self._texts.setdefault(as_seen(text), []).append(text)

    def twin(self, text: str) -> str | None:
        """Return the first other text that looks the same."""
        alike = self._texts.get(as_seen(text), ()) if len(text) <= LONGEST_NAME else ()
        return next((other for other in alike if other != text), None)


def looks_like(name: str, known: Iterable[str] | Sights) -> str:
    """Return "; it looks like 'a b' but has U+00A0 (NO-BREAK SPACE) where that has U+0020 (SPACE)" for a message.

    Empty where no known text looks the same.
    """
    twin = (known if isinstance(known, Sights) else Sights(known)).twin(name)
    return "" if twin is None else f"; it looks like {twin!r} but has {differences(name, twin)}"


def twins(texts: Iterable[str], others: Iterable[str]) -> str:
    """Return "; 'a b' looks like 'a b' but has …" with every text that looks like one of the others; else empty."""
    known = Sights(others)
    found = (f"; {text!r}{said[4:]}" for text in texts if (said := looks_like(text, known)))
    return "".join(islice(found, MOST_LISTED))


def differences(one: str, other: str) -> str:
    """Return by their code points the characters of `one` that differ, each with those of `other` in its place."""
    changes = [
        f"{_points(one[a:b])} where that has {_points(other[c:d])}"
        for tag, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
        if tag != "equal"
    ]
    more = len(changes) - MOST_DIFFERENCES
    return ", ".join(changes[:MOST_DIFFERENCES]) + (f", and {more} more" if more > 0 else "")


def _apart(name: str, known: Iterable[str]) -> str:
    """Return a sentence of its own for a known text that looks the same."""
    said = looks_like(name, known)
    return f" It{said[4:]}." if said else ""


def _points(text: str) -> str:
    """ "U+006F (LATIN SMALL LETTER O) U+0308 (COMBINING DIAERESIS)"."""
    shown = [f"U+{ord(c):04X} ({unicodedata.name(c, 'no name')})" for c in text[:4]]
    return (" ".join(shown) + " …" * (len(text) > 4)) or "nothing"


def one_edit(one: str, other: str) -> bool:
    """Return whether one character inserted, deleted, replaced, or swapped with its neighbour, turns one into the
    other.
    """
    if abs(len(one) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    a, b = one[start:], other[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
