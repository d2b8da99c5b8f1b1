"""Near matches: what a name that refers to nothing was probably meant to be."""

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Final

LEAST_RATIO: Final = 0.6
"""As in `difflib.get_close_matches`."""
MOST_NEAR: Final = 3
MOST_LISTED: Final = 20
MEANT: Final = "did you mean "
"""In every hint that has a near match."""


def near(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the known names that are close to `name`, the closest first.

    Letter case does not matter. A name one edit or one swap away is always close, however short it is.
    """
    ranked = []
    for candidate in dict.fromkeys(known):
        said, meant = name.casefold(), candidate.casefold()
        ratio = SequenceMatcher(None, said, meant).ratio()
        if ratio >= LEAST_RATIO or one_edit(said, meant):
            ranked.append((-ratio, candidate))
    return [candidate for _, candidate in sorted(ranked)[:MOST_NEAR]]


def hint(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'auc'? Known: auc, loss" for a message about an unknown name; empty if none is known."""
    names = sorted(dict.fromkeys(known))
    if not names:
        return ""
    close = " or ".join(repr(candidate) for candidate in near(name, names))
    listed = ", ".join(names[:MOST_LISTED]) + (f" and {len(names) - MOST_LISTED} more" * (len(names) > MOST_LISTED))
    return f"; {MEANT}{close}? Known: {listed}" if close else f"; known: {listed}"


def one_edit(one: str, other: str) -> bool:
    """Whether one character inserted, deleted, replaced, or swapped with its neighbour, turns one into the other."""
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    a, b = one[start:], other[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
