"""Columns of a data set, and whether those of several sites mean the same.

Category columns (the label's classes among them) and the channels of an image are matched by their texts: sites that
list the same texts in different orders agree on one order, to which each maps its own. Everything else that differs is
a refusal that names the sites, the column and what to do. Types, categories, channels, shapes and the scales of pixels
are compared; values and counts are not known here.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import Field

from undersong.shared.names import twins
from undersong.shared.wire.forms import Document, Name, is_empty

ColumnType = Literal["number", "category", "image", "text"]
Numbers = Literal["binary", "whole", "real"]
_SHOWN: Final = 20
FULL_SCALE: Final = frozenset((0.0, float(top)) for top in (1, *(2**bits - 1 for bits in range(8, 17))))
"""Ranges of pixels that mean black to white: 0..1, and unsigned integers of 8 to 16 bits."""


class Column(Document):
    """One column; `categories` lists a category column's values in their fixed order.

    Of an image: `shape` is [channels, height, width], `channels` names the channels in their order, `scale` is the
    declared range of its pixels, and `dtype` the type in which they are stored. Each site scales its own pixels to
    0..1: by `scale`, else by `dtype`. Of a number column: `numbers` says whether all are 0 or 1, or whole numbers from
    0 to 999, or neither; a site tells it, and nothing is agreed on it.
    """

    name: Name
    type: ColumnType
    categories: tuple[str, ...] | None = None
    shape: tuple[int, int, int] | None = Field(default=None, exclude_if=is_empty)
    channels: tuple[Name, ...] | None = Field(default=None, exclude_if=is_empty)
    scale: tuple[float, float] | None = Field(default=None, exclude_if=is_empty)
    dtype: Name | None = Field(default=None, exclude_if=is_empty)
    numbers: Numbers | None = Field(default=None, exclude_if=is_empty)


class Unused(Document):
    """A column that a job does not read, and why."""

    name: Name
    reason: str = Field(max_length=500)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What sites mean by one column: `agreed` where they can be matched, else the sentences that say why not.

    `notes` tell what was matched by text.
    """

    name: str
    declared: Mapping[str, Column]
    agreed: Column | None
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def agree(declared: Mapping[str, Column], categories: Sequence[str] | None = None) -> Agreement:
    """Match one column of several sites, by their names; `categories` is the list that the job gives, if it does.

    Without it all sites must list the same ones; their order is the one that most sites have, and of equally many the
    first in alphabetical order.
    """
    first = next(iter(declared.values()))
    faults = [fault for check in _CHECKS if (fault := check(first.name, declared)) is not None]
    if not faults and categories is None:
        faults += [fault for fault in (_unlike_categories(first.name, declared),) if fault is not None]
    if faults:
        return Agreement(first.name, declared, None, tuple(faults))
    order = tuple(categories) if categories is not None else _order([c.categories for c in declared.values()])
    channels = _order([column.channels for column in declared.values()])
    agreed = first.model_copy(
        update={"categories": order, "channels": channels, "numbers": None, **_agreed_scale(declared.values())}
    )
    misfits = {site: misfit(column, agreed, listed=categories is not None) for site, column in declared.items()}
    faults = [f"{fault} (at {site})" for site, fault in misfits.items() if fault is not None]
    if faults:
        return Agreement(first.name, declared, None, tuple(faults))
    return Agreement(first.name, declared, agreed, notes=tuple(_notes(declared, agreed)))


def misfit(own: Column, agreed: Column, *, listed: bool = False) -> str | None:
    """Return why a site's column cannot be mapped to the agreed one, with the remedy; None where it can.

    `listed`: the job itself lists the categories, so that a site may have fewer of them.
    """
    name = own.name
    if own.type != agreed.type:
        remedy = _same_type({own.type, agreed.type})
        return f"the column {name!r} is a {own.type} here, and a {agreed.type} was agreed on; {remedy}"
    here, agreed_on = set(own.categories or ()), set(agreed.categories or ())
    alike = _alike(here, agreed_on)
    if here - agreed_on or (agreed_on - here and not listed):
        return f"the column {name!r}: this site {_apart(here, agreed_on)} what was agreed on{alike}; {_SAME_CATEGORIES}"
    if own.shape is not None and agreed.shape is not None and own.shape != agreed.shape:
        return f"the column {name!r} has {_shape(own)} here, and {_shape(agreed)} were agreed on; {_SAME_SHAPE}"
    names, wanted = set(own.channels or ()), set(agreed.channels or ())
    if names != wanted:
        said = f"{_channels(agreed)} were agreed on{_alike(names, wanted)}"
        return f"the column {name!r} has {_channels(own)} here, and {said}; {_SAME_CHANNELS}"
    if None not in (_scale(own), _scale(agreed)) and _scale(own) != _scale(agreed):
        return f"the column {name!r} has {_pixels(own)} here, and {_pixels(agreed)} were agreed on; {_SAME_SCALE}"
    return None


_MAPPED = "map the words with `values` in that site's datasets.yaml"
_SAME_TYPE = "declare one type in each site's datasets.yaml, or leave the column out of the job"
_SAME_SHAPE = "store images of one shape at each site"
_SAME_SCALE = (
    "declare the same range of its pixels under ranges in each site's datasets.yaml, and store the images so: each "
    "site scales its pixels to 0..1 by it, and one value must mean the same everywhere"
)
_SAME_CHANNELS = "declare the same channels in each site's datasets.yaml"
_SAME_CATEGORIES = (
    f"where a site has other words for the same, {_MAPPED}; where it has other categories, list the same ones in each "
    "site's datasets.yaml, or all of them (or `union`) under data.categories of the job"
)


def _same_type(types: Set[str]) -> str:
    """Return the remedy where sites declare a column with these types: words at one may be numbers at another."""
    words = "" if "image" in types else f"where one site has words for what another has as numbers, {_MAPPED}; "
    return words + _SAME_TYPE


def _unlike_types(name: str, declared: Mapping[str, Column]) -> str | None:
    types = {column.type for column in declared.values()}
    if len(types) <= 1:
        return None
    said = {site: f"a {column.type}" for site, column in declared.items()}
    return f"the column {name!r} is {_by_site(said)}; {_same_type(types)}"


def _unlike_shapes(name: str, declared: Mapping[str, Column]) -> str | None:
    said = {site: _shape(column) for site, column in declared.items() if column.shape is not None}
    return f"the column {name!r} has {_by_site(said)}; {_SAME_SHAPE}" if len(set(said.values())) > 1 else None


def _unlike_channels(name: str, declared: Mapping[str, Column]) -> str | None:
    if len({frozenset(column.channels or ()) for column in declared.values()}) <= 1:
        return None
    said = {site: _channels(column) for site, column in declared.items()}
    first, *rest = [set(column.channels or ()) for column in declared.values()]
    alike = "".join(dict.fromkeys(_alike(first, other) for other in rest))
    return f"the column {name!r} has {_by_site(said)}{alike}; {_SAME_CHANNELS}"


def _unlike_scales(name: str, declared: Mapping[str, Column]) -> str | None:
    if len({_scale(column) for column in declared.values()} - {None}) <= 1:
        return None
    said = {site: _pixels(column) for site, column in declared.items()}
    return f"the column {name!r} has {_by_site(said)}; {_SAME_SCALE}"


_CHECKS = (_unlike_types, _unlike_shapes, _unlike_channels, _unlike_scales)


def _scale(column: Column) -> tuple[float, float] | str | None:
    """Return a key for the scale of an image's pixels: equal where 0..1 means the same after scaling.

    None where it is not known. 8 bits, 0..1, and declared ranges of 8 to 16 bits all mean black to white; uint16
    without a declared range does not, because it usually holds fewer bits.
    """
    if column.scale is not None:
        return (0.0, 1.0) if column.scale in FULL_SCALE else column.scale
    if column.dtype is None:
        return None
    return (0.0, 1.0) if column.dtype == "uint8" or column.dtype.startswith("float") else column.dtype


def _agreed_scale(declared: Iterable[Column]) -> dict[str, object]:
    """Return the fields of the agreed column: the scale that all share, as far as it is known."""
    scale = next((found for column in declared if (found := _scale(column)) is not None), None)
    return {"scale": None, "dtype": scale} if isinstance(scale, str) else {"scale": scale, "dtype": None}


def _unlike_categories(name: str, declared: Mapping[str, Column]) -> str | None:
    """Compare each site with the categories that most list."""
    said = {site: frozenset(column.categories or ()) for site, column in declared.items()}
    if len(set(said.values())) <= 1:
        return None
    counted = Counter(said.values())
    usual = min(counted, key=lambda texts: (-counted[texts], sorted(texts)))
    others = [
        f"{site} {_apart(texts, usual)} them{_alike(texts, usual)}" for site, texts in said.items() if texts != usual
    ]
    sites = _listed([site for site, texts in said.items() if texts == usual])
    return f"the column {name!r} lists {_texts(sorted(usual))} at {sites}; {'; '.join(others)}; {_SAME_CATEGORIES}"


def _apart(texts: Set[str], usual: Set[str]) -> str:
    """Return  "lists 'nein' beside and lacks 'no' of" them."""
    more, fewer = sorted(texts - usual), sorted(usual - texts)
    found = [f"lists {_texts(more)} beside"] if more else []
    return " and ".join([*found, *([f"lacks {_texts(fewer)} of"] if fewer else [])])


def _alike(texts: Set[str], usual: Set[str]) -> str:
    """Name the texts that look like one of the others and differ all the same."""
    return twins(sorted(texts - usual), sorted(usual - texts))


def _order(listed: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """Return the order that most list; of equally many the first in alphabetical order."""
    counted = Counter(texts for texts in listed if texts is not None)
    return min(counted, key=lambda texts: (-counted[texts], texts)) if counted else None


def _notes(declared: Mapping[str, Column], agreed: Column) -> list[str]:
    found = []
    order = {text: place for place, text in enumerate(agreed.categories or ())}
    kept = {site: [order[text] for text in column.categories or ()] for site, column in declared.items()}
    if turned := [site for site, places in kept.items() if places != sorted(places)]:
        found.append(
            f"the categories of {agreed.name!r} are listed in another order at {_listed(turned)}; they are matched by "
            f"their texts, in the order {_texts(agreed.categories or ())}"
        )
    if turned := [site for site, column in declared.items() if column.channels != agreed.channels]:
        found.append(
            f"the channels of {agreed.name!r} are stored in another order at {_listed(turned)}; they are matched by "
            f"their names, in the order {_texts(agreed.channels or ())}"
        )
    said = {site: _pixels(column) for site, column in declared.items() if _scale(column) is not None}
    if len(set(said.values())) > 1:
        found.append(f"the column {agreed.name!r} has {_by_site(said)}; each is scaled from black to white, 0..1")
    return found


def _by_site(said: Mapping[str, str]) -> str:
    """Return  "a number at alpha and beta, and a category at gamma": what most say first."""
    sites: dict[str, list[str]] = {}
    for site, text in said.items():
        sites.setdefault(text, []).append(site)
    ranked = sorted(sites.items(), key=lambda item: -len(item[1]))
    return ", and ".join(f"{text} at {_listed(names)}" for text, names in ranked)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _texts(texts: Sequence[str]) -> str:
    if not texts:
        return "none"
    return ", ".join(repr(text) for text in texts[:_SHOWN]) + (
        f" and {len(texts) - _SHOWN} more" * (len(texts) > _SHOWN)
    )


def _shape(column: Column) -> str:
    return "images of " + "x".join(map(str, column.shape or ("unknown shape",)))


def _pixels(column: Column) -> str:
    if column.scale is not None:
        return f"pixels from {column.scale[0]:g} to {column.scale[1]:g}"
    return f"pixels of {column.dtype or 'unknown type'} without a declared range"


def _channels(column: Column) -> str:
    return f"the channels {_texts(column.channels)}" if column.channels else "no named channels"
