"""Names with one character wrong, for tests that every reference in a document is resolved."""

import copy
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

Place = tuple[str | int, ...]


@st.composite
def misspelt(draw: st.DrawFn, name: str) -> str:
    """`name` with one character inserted, deleted, replaced, or swapped with the next."""
    letter = draw(st.sampled_from(string.ascii_lowercase))
    at = draw(st.integers(0, len(name) - 1))
    edits = [name[:at] + letter + name[at:], name[:at] + letter + name[at + 1 :]]
    edits += [name[:at] + name[at + 1 :]] if len(name) > 1 else []
    edits += [name[:at] + name[at + 1] + name[at] + name[at + 2 :]] if at + 1 < len(name) else []
    return draw(st.sampled_from([edit for edit in edits if edit != name] or [name + letter]))


def names_in(document: Any, free: Sequence[Place] = (), at: Place = ()) -> Iterator[tuple[Place, str, bool]]:
    """Every key and text of a document, but for `free` places: its place, the name, and whether it is a key."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            if (*at, key) not in free:
                yield at, key, True
                yield from names_in(value, free, (*at, key))
    elif isinstance(document, list | tuple):
        for place, value in enumerate(document):
            yield from names_in(value, free, (*at, place))
    elif isinstance(document, str):
        yield at, document, False


def exchanged(document: Any, place: Place, old: str, new: str, *, key: bool) -> Any:
    """The document with `new` in the place of a key or text `old`."""
    made = copy.deepcopy(document)
    inner = made
    for part in place if key else place[:-1]:
        inner = inner[part]
    if key:
        inner[new] = inner.pop(old)
    else:
        inner[place[-1]] = new
    return made
