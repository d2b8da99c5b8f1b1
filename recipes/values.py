"""Cells as numbers by the type that their column is declared to have; nothing is guessed.

An empty cell is missing, and so is what the declaration lists under `missing`; every other cell is a number, a date in
the declared form or a declared category, or an error that names it. Only one thing has two spellings: a whole number
with a fraction of zeros (`1.0`) is the category `1`, unless `1.0` is a category itself, and `-9.0` the missing `-9`.
Numbers become float64. One written digit by digit, or stored as an integer, whose whole part float64 would change is
refused: it is more likely an identifier than a measurement. With an exponent (`1e300`) it is a measurement.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.entry import NUMBER, BadDataset, ColumnEntry, DatasetEntry
from undersong.recipes.hints import about_number, about_text
from undersong.recipes.options import moment_of, text_of
from undersong.shared.names import hint, looks_like
from undersong.shared.wire.profiles import Column

Floats = npt.NDArray[np.float64]
KEPT_CELLS: Final = 100_000  # texts whose value is remembered
SPACES: Final = "\u00a0\u2009\u202f"
SHOWN: Final = 60  # characters of a cell in a message
_WHOLE: Final = re.compile(r"([+-]?[0-9]+)\.0+")
_NUMBERS: Final = re.compile(rf"(?:(?:{NUMBER.pattern})?+\n)*+(?:{NUMBER.pattern})?+")
_EXACT: Final = 2.0**53  # up to which float64 holds every whole number


class Unfit(ValueError):
    """A cell is not what its column holds. `public` names no value; `help_` is for the owner of the data."""

    def __init__(self, public: str, help_: str = "") -> None:
        super().__init__(public)
        self.public, self.help = public, help_


@dataclass(frozen=True, slots=True)
class Misfit:
    """The first cell of a column that cannot be used, and its place among the cells."""

    place: int
    cell: str
    why: Unfit

    def told(self, column: str, where: str) -> str:
        """Return what the owner of the data is told."""
        shown = self.cell if len(self.cell) <= SHOWN else self.cell[:SHOWN] + "…"
        return f"{where}, column {column}: {shown!r} {self.why.public}{self.why.help}"


class Cells(ABC):
    """Turns the cells of one column into float64; see `NumberCells`, `CategoryCells` and `TextCells`."""

    def __init__(self, name: str, missing: Iterable[str] = (), exchanged: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._missing = {plain(text) for text in missing} | {""}
        self._exchanged = {plain(key): text for key, text in (exchanged or {}).items()}
        self._known: dict[str, float] = {}

    def texts(self, cells: Sequence[str]) -> tuple[Floats, Misfit | None]:
        """Return float64[n], NaN where missing, or the first cell that does not fit."""
        known = self._known
        for cell in dict.fromkeys(cells):
            if cell in known:
                continue
            try:
                known[cell] = self._value(cell)
            except Unfit as why:
                return np.zeros(0), Misfit(cells.index(cell), cell, why)
        made = np.fromiter((known[cell] for cell in cells), np.float64, len(cells))
        if len(known) > KEPT_CELLS:
            known.clear()
        return made, None

    def of_rows(
        self, cells: Sequence[str] | npt.NDArray[Any], rows: npt.NDArray[np.int64]
    ) -> tuple[Floats, Misfit | None]:
        """Return the same of chosen rows, int64[n], of texts or of an array."""
        if isinstance(cells, np.ndarray):
            return self.typed(cells[rows])
        return self.texts(cells if rows.size == len(cells) else [cells[row] for row in rows.tolist()])

    def typed(self, values: npt.NDArray[Any]) -> tuple[Floats, Misfit | None]:
        """Return the same from an array of numbers, truth values or texts; NaN is missing."""
        return self.texts([cell_of(value) for value in values.tolist()])

    def _value(self, cell: str) -> float:
        text = cell.strip()
        short = plain(text)
        if short in self._missing:
            return np.nan
        if short in self._exchanged:
            return self._number(self._exchanged[short], exchanged=True)
        return self._number(text, exchanged=False)

    @abstractmethod
    def _number(self, text: str, *, exchanged: bool) -> float:
        """Return what a text that is not missing stands for; raises `Unfit`. `exchanged`: it comes from `values`."""


class NumberCells(Cells):
    """A number column: numbers as they are written, or dates as days since 1970-01-01 (UTC)."""

    def __init__(
        self,
        name: str,
        missing: Iterable[str] = (),
        exchanged: Mapping[str, str] | None = None,
        *,
        limits: tuple[float | None, float | None] = (None, None),
        date: str | None = None,
        decimal: str = ".",
        thousands: str = "",
    ) -> None:
        missing = tuple(missing)
        super().__init__(name, missing, exchanged)
        self._limits, self._date, self._decimal, self._thousands = limits, date, decimal, thousands
        self._form = number_form(decimal, thousands)
        self._absent = {float(text) for text in missing if NUMBER.fullmatch(text) and not is_changed(text)}

    def texts(self, cells: Sequence[str]) -> tuple[Floats, Misfit | None]:
        """Return float64[n] or the first misfit; plain numbers are read in one go."""
        made = self._plain_numbers(cells)
        return super().texts(cells) if made is None else (made, None)

    def _plain_numbers(self, cells: Sequence[str]) -> Floats | None:
        """Return the numbers where every cell is missing or a number without groups, and within its limits."""
        if self._exchanged or self._date is not None or self._thousands:
            return None
        said = ["" if (text := cell.strip()) in self._missing else text for cell in cells]
        joined = "\n".join(said)
        if self._decimal != ".":
            if "." in joined:
                return None
            joined = joined.replace(self._decimal, ".")
        if joined.count("\n") >= len(said) or not _NUMBERS.fullmatch(joined):
            return None
        found = joined.split("\n") if said else []
        values = np.array([float(text) if text else np.nan for text in found], np.float64)
        if (np.abs(values) >= _EXACT).any():
            return None  # each is looked at
        made, misfit = self.typed(values)
        return None if misfit else made

    def typed(self, values: npt.NDArray[Any]) -> tuple[Floats, Misfit | None]:
        """Return numbers as they are, without a way through texts."""
        if values.dtype.kind not in "iufb" or self._exchanged or self._date is not None:
            return super().typed(values)
        made = values.astype(np.float64)
        if values.dtype.kind in "iu":
            for place in np.flatnonzero(np.abs(made) >= _EXACT).tolist():
                text = str(values[place])
                if text in self._missing:
                    made[place] = np.nan
                elif is_changed(text):
                    return made, Misfit(place, text, _changed(self.name))
        if self._absent:
            made[np.isin(made, sorted(self._absent))] = np.nan
        low, high = self._limits
        wrong = (
            np.isinf(made) | (made < (-np.inf if low is None else low)) | (made > (np.inf if high is None else high))
        )
        if not wrong.any():
            return made, None
        place = int(np.argmax(wrong))
        try:
            self._checked(float(made[place]))
        except Unfit as why:
            return made, Misfit(place, text_of(values[place].item()), why)
        return made, None

    def _number(self, text: str, *, exchanged: bool) -> float:
        if self._date is not None and not exchanged:
            return self._checked(self._days(text))
        if not (NUMBER if exchanged else self._form).fullmatch(text):
            known = () if exchanged else [*self._missing, *self._exchanged]
            raise Unfit("is not a number", looks_like(text, known) or about_number(self.name, text))
        if not exchanged:
            text = re.sub(f"[{self._thousands}{SPACES}]" if self._thousands else r"\s", "", text)
            text = text.replace(self._decimal, ".")
        if is_changed(text):
            raise _changed(self.name)
        value = float(text)
        return np.nan if value in self._absent else self._checked(value)

    def _days(self, text: str) -> float:
        assert self._date is not None  # noqa: S101 (asked by the caller)
        try:
            return moment_of(text, self._date)
        except ValueError:
            raise Unfit(f"is not a date of the form {self._date}") from None

    def _checked(self, value: float) -> float:
        if not np.isfinite(value):
            raise Unfit("is an infinite number")
        low, high = self._limits
        if (low is not None and value < low) or (high is not None and value > high):
            ends = f"{'…' if low is None else f'{low:g}'} to {'…' if high is None else f'{high:g}'}"
            listed = "correct the row, list the value under missing, or widen the range"
            raise Unfit(f"is outside its range {ends}", f"; {listed}")
        return value


class CategoryCells(Cells):
    """A category column: each cell as its place among the declared categories."""

    def __init__(
        self,
        name: str,
        categories: Sequence[str],
        missing: Iterable[str] = (),
        exchanged: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, (text for text in missing if text not in categories), exchanged)
        self._places = {text: float(place) for place, text in enumerate(categories)}
        short = [plain(text) for text in categories]
        self._short = {text: float(place) for place, text in enumerate(short) if short.count(text) == 1}

    def _value(self, cell: str) -> float:
        found = self._places.get(cell.strip())
        if found is not None and cell.strip() not in self._exchanged:
            return found  # before `missing`: -9.0 may be a category beside a missing -9
        return super()._value(cell)

    def _number(self, text: str, *, exchanged: bool) -> float:  # noqa: ARG002 (a category is what it is exchanged for)
        found = self._places.get(text, self._short.get(plain(text)))
        if found is None:
            known = [*self._places, *self._exchanged]
            raise Unfit("is outside its categories", f"{hint(text, known)}{about_text(self.name, text)}")
        return found


class TextCells(Cells):
    """A column that is only compared: `same` tells which cells say a text, and `seen` counts what they say."""

    def __init__(self, name: str, wanted: str, exchanged: Mapping[str, str] | None = None) -> None:
        super().__init__(name, (), exchanged)
        self._wanted = plain(wanted)
        self.seen: dict[str, int] = {}

    def texts(self, cells: Sequence[str]) -> tuple[Floats, Misfit | None]:
        """Return 1 where the cell says the text, else 0."""
        said = [self._exchanged.get(text, text) for text in (plain(cell.strip()) for cell in cells)]
        for text in said:
            if text in self.seen or len(self.seen) < KEPT_CELLS:
                self.seen[text] = self.seen.get(text, 0) + 1
        return np.array([self._number(text, exchanged=True) for text in said]), None

    def _number(self, text: str, *, exchanged: bool) -> float:  # noqa: ARG002 (a text is compared after it)
        return float(plain(text) == self._wanted)


def plain(text: str) -> str:
    """Return a whole number without its fraction of zeros, any other text as it is."""
    found = _WHOLE.fullmatch(text)
    return found[1] if found else text


def is_changed(text: str) -> bool:
    """Return whether float64 would change the whole part of a number that is written without an exponent."""
    value = float(text)
    if abs(value) < _EXACT or np.isinf(value) or "e" in text or "E" in text:
        return False
    return Decimal(text) != Decimal(value)


def _changed(column: str) -> Unfit:
    return Unfit(
        "has more digits than a number column keeps",
        f" (beyond 2^53 they would be rounded): declare {column} as text or category if these are identifiers; if they "
        "are measurements, write them with an exponent",
    )


def number_form(decimal: str, thousands: str) -> re.Pattern[str]:
    """Return the form of a number: with a thousands separator, groups of exactly three digits or none at all."""
    point = re.escape(decimal)
    whole = "[0-9]++"
    if thousands:
        mark = f"[{re.escape(thousands)}{SPACES if thousands == ' ' else ''}]"
        whole = f"(?:[0-9]{{1,3}}(?:{mark}[0-9]{{3}})++(?![0-9])|[0-9]++)"
    return re.compile(rf"[+-]?(?:{whole}(?:{point}[0-9]*+)?+|{point}[0-9]++)(?:[eE][+-]?[0-9]++)?+")


def cells_of(entry: DatasetEntry, column: ColumnEntry) -> Cells:
    """Return what turns the cells of a declared number or category column into numbers."""
    missing, exchanged = entry.missing_of(column.name), entry.values.get(column.name)
    if column.type == "category":
        return CategoryCells(column.name, column.categories or (), missing, exchanged)
    return NumberCells(
        column.name,
        missing,
        exchanged,
        limits=entry.ranges.get(column.name, (None, None)),
        date=entry.dates.get(column.name),
        decimal=entry.csv.decimal,
        thousands=entry.csv.thousands,
    )


def numbers_of(column: Column, values: Any, missing: Sequence[float | str] = ()) -> Floats:
    """Return one column's values, float64[n]: numbers, or positions among the categories; NaN where missing.

    For values that no declaration describes: rows to predict from. Raises `BadDataset`.
    """
    absent = [text_of(text) for text in missing]
    cells: Cells = NumberCells(column.name, absent)
    if column.type == "category":
        cells = CategoryCells(column.name, column.categories or (), absent)
    plain_values = np.asarray(values)
    made, misfit = cells.typed(plain_values if plain_values.dtype.kind in "iufb" else np.asarray(values, object))
    if misfit is not None:
        told = misfit.told(column.name, f"row {misfit.place + 1}")
        raise BadDataset(f"column {column.name} holds a value that {misfit.why.public}", told)
    return made


def images_of(
    pixels: npt.NDArray[Any],
    limits: tuple[float | None, float | None] = (None, None),
    channel_axis: str = "first",
) -> npt.NDArray[np.float32]:
    """Return float32[n, c, h, w] in 0..1 from [n, h, w], [n, c, h, w] or, with `channel_axis` last, [n, h, w, c].

    `limits` are the lowest and highest value that a pixel can have; without them uint8 means 0..255, uint16
    0..65535 and floating point 0..1. Raises `BadDataset` for other types, shapes and values.
    """
    if pixels.ndim not in (3, 4):
        raise BadDataset("images must be [rows, height, width] or [rows, channels, height, width]")
    shaped = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, 3, 1) if channel_axis == "last" else pixels
    if 0 in shaped.shape[1:]:
        raise BadDataset(f"images of shape {shaped.shape[1:]} hold no pixels")
    if pixels.ndim == 4 and shaped.shape[1] > MOST_CHANNELS and pixels.shape[3] <= MOST_CHANNELS:
        shape = "x".join(map(str, pixels.shape[1:]))
        raise BadDataset(f"images of {shape} have their channels last: declare channel_axis: last")
    low, high = _pixel_limits(pixels.dtype, limits)
    made = shaped.astype(np.float32)
    if not np.isfinite(made).all():
        raise BadDataset("an image holds a number that is not finite")
    if made.size and (made.min() < np.float32(low) or made.max() > np.float32(high)):
        raise BadDataset(
            f"an image holds values outside {low:g} to {high:g}: declare the range of its pixels under ranges",
            f"the values found reach from {made.min():g} to {made.max():g}",
        )
    if (low, high) != (0.0, 1.0):
        made = (made - np.float32(low)) / np.float32(high - low)
    return made


MOST_CHANNELS: Final = 4
_PIXELS: Final = {np.dtype(np.uint8): (0.0, 255.0), np.dtype(np.uint16): (0.0, 65_535.0)}


def _pixel_limits(dtype: np.dtype[Any], limits: tuple[float | None, float | None]) -> tuple[float, float]:
    if dtype.kind not in "uif":
        raise BadDataset(f"images of type {dtype} cannot be used: uint8, uint16 or floating point")
    low, high = limits
    if low is not None and high is not None:
        return low, high
    if dtype.kind == "f":
        return 0.0, 1.0
    if dtype not in _PIXELS:
        raise BadDataset(f"images of type {dtype} need the range of their pixels under ranges")
    return _PIXELS[dtype]


def cell_of(value: object) -> str:
    """Return a typed value as the text of a cell; empty for nothing and for NaN."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return text_of(value)
