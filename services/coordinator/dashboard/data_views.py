"""What the data browser shows: declarations of one data set side by side, told counts, and rows that are not real."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from undersong.services.coordinator.views.members import ColumnComparison, ComparisonView, SiteView
from undersong.shared.wire.columns import Column

MOCK_ROWS = 5
_MOST_COLUMNS = 12  # of mock rows; a wider table is drawn by the command
_SHOWN = 6  # categories of a column


@dataclass(frozen=True, slots=True)
class Form:
    """One way in which sites declare something, and the sites that do."""

    text: str
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ColumnItem:
    """One column over the sites."""

    name: str
    state: str
    forms: tuple[Form, ...]
    missing: tuple[str, ...]
    told: tuple[str, ...]  # what keeps the sites from training together, or was matched by text


@dataclass(frozen=True, slots=True)
class DataItem:
    """A data set over the sites of a federation. `mock`: a header and rows that are drawn; empty where none can be."""

    federation: str
    dataset: str
    matches: bool
    labels: tuple[Form, ...]
    counts: tuple[tuple[str, int | None], ...]  # None: the site does not tell
    absent: tuple[tuple[str, str], ...]
    columns: tuple[ColumnItem, ...]
    mock: tuple[tuple[str, ...], ...]

    @property
    def total(self) -> int:
        """How many rows are told of, over all sites."""
        return sum(rows or 0 for _, rows in self.counts)


def data_item(found: ComparisonView, sites: Sequence[SiteView], federations: Mapping[str, str]) -> DataItem:
    """Return a data set as it is shown; computes."""
    label = next(iter(found.labels.values()), None)
    return DataItem(
        federation=federations.get(found.federation_id, found.federation_id),
        dataset=found.dataset,
        matches=found.matches,
        labels=_forms({site: named or "none" for site, named in found.labels.items()}),
        counts=tuple((site.name, _rows(site, found.dataset)) for site in sites if site.name in found.sites),
        absent=tuple(found.absent.items()),
        columns=tuple(_column(column) for column in found.columns),
        mock=_mock(found, label),
    )


def _rows(site: SiteView, dataset: str) -> int | None:
    schemas = site.profile.datasets if site.profile is not None else ()
    return next((schema.rows for schema in schemas if schema.name == dataset), None)


def _column(found: ColumnComparison) -> ColumnItem:
    return ColumnItem(
        name=found.name,
        state=found.state,
        forms=_forms({site: form_of(column) for site, column in found.declared.items()}),
        missing=tuple(found.missing),
        told=(*found.faults, *found.notes),
    )


def _forms(told: Mapping[str, str]) -> tuple[Form, ...]:
    sites: dict[str, list[str]] = {}
    for site, text in told.items():
        sites.setdefault(text, []).append(site)
    return tuple(Form(text, tuple(names)) for text, names in sites.items())


def form_of(column: Column) -> str:
    """Return a column's declaration in a few words."""
    if column.categories is not None:
        more = len(column.categories) - _SHOWN
        return f"category: {', '.join(column.categories[:_SHOWN])}{f' and {more} more' if more > 0 else ''}"
    if column.shape is not None:
        return f"image, {' × '.join(str(side) for side in column.shape)}{f', {column.dtype}' if column.dtype else ''}"
    return str(column.type)


def _mock(found: ComparisonView, label: str | None) -> tuple[tuple[str, ...], ...]:
    """Return drawn rows of what all sites have in common; none for images and texts."""
    columns = [each.agreed for each in found.columns if each.agreed is not None][:_MOST_COLUMNS]
    if not columns or any(column.type not in ("number", "category") for column in columns):
        return ()
    source = random.Random(0)  # noqa: S311  (rows that are made up, the same at each look)
    cells = [[_cell(column, label, source) for column in columns] for _ in range(MOCK_ROWS)]
    return (tuple(column.name for column in columns), *map(tuple, cells))


def _cell(column: Column, label: str | None, source: random.Random) -> str:
    """Return a category, 0 or 1 for a label that is a number, or a number from 0 to 1, as a declaration's twin has."""
    if column.categories:
        return str(source.choice(column.categories))
    if column.name == label or column.numbers in ("binary", "whole"):
        return str(source.randint(0, 1))
    return f"{source.random():.4g}"
