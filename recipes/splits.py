"""Which rows of a data set are for training, for validation and for the test, by its declaration; docs/data.md.

What decides is a row's own place, value or moment, or its file, so that the same row is in the same part in each job.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.entry import BadDataset, ColumnEntry, DatasetEntry, cut_of
from undersong.recipes.files import FilePart
from undersong.recipes.values import KEPT_CELLS, cell_of, cells_of, plain
from undersong.shared.names import hint
from undersong.shared.wire.manifest import Fold

PARTS: Final = ("train", "validation", "test")
SHOWN: Final = 5
Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class SplitRows:
    """The rows of each part, as indices, int64[n]."""

    train: Rows
    validation: Rows
    test: Rows


class Splitter:
    """Takes a data set's rows as they are read and knows the part of each; `codes` are places in `PARTS`."""

    def __init__(self, entry: DatasetEntry) -> None:
        split = entry.split
        self._entry, self._by, self._column = entry, split.by, split.column
        self._codes: list[Codes] = []
        self._keys: list[str] = []  # of rows, where a column decides together for several
        self._seen: Counter[str] = Counter()
        self._count = 0
        self._part_of = {plain(text): PARTS.index(part) for part in PARTS for text in getattr(split, part)}
        self._exchanged = {plain(key): text for key, text in entry.values.get(split.column or "", {}).items()}
        if split.by == "time":
            column = entry.column(split.column or "") or ColumnEntry(name=split.column or "", type="number")
            self._moments = cells_of(entry, column)
            cuts = (split.validation_from, split.test_from)
            self._cuts = [None if text is None else cut_of(entry, text) for text in cuts]

    def take(self, part: FilePart, rows: Rows, of: str) -> None:
        """Take the rows of a part of a file that is for the part `of`; raises `BadDataset`."""
        self._codes.append(self._codes_of(part, rows, of))
        self._count += rows.size

    def finish(self) -> None:
        """Raise `BadDataset` where a part that is declared by a column or a time has no rows."""
        if self._by == "hash":
            return
        counts = np.bincount(np.concatenate([*self._codes, np.zeros(0, np.int8)]), minlength=len(PARTS))
        for part in self._entry.split.parts(self._entry.test_fraction)[1:]:
            if counts[PARTS.index(part)]:
                continue
            raise BadDataset(f"its split leaves no rows for {part}", *self._seen_for(part))

    def rows(self, known: Rows, fold: Fold | None = None) -> SplitRows:
        """Return each part's rows as indices into `known`, the places of the rows that are used.

        With a fold, its rows are those for validation, and all others outside of the test part are for training.
        """
        codes = self.codes(known, fold)
        train, validation, test = (np.flatnonzero(codes == code) for code in range(len(PARTS)))
        return SplitRows(train, validation, test)

    def codes(self, known: Rows, fold: Fold | None = None) -> Codes:
        """Return the part of each of these rows, int8[n], as places in `PARTS`."""
        codes = np.concatenate([*self._codes, np.zeros(0, np.int8)])[known]
        if fold is None:
            return codes
        inside = np.array([_fold(self._entry.split_seed, key, fold) for key in self._keys_of(known)], bool)
        return np.where(codes == PARTS.index("test"), codes, inside.astype(np.int8))

    def _codes_of(self, part: FilePart, rows: Rows, of: str) -> Codes:
        if self._by == "file":
            return np.full(rows.size, PARTS.index(of), np.int8)
        if self._by == "time":
            return self._by_time(part, rows)
        if self._column is None:
            places = range(self._count, self._count + rows.size)
            return self._drawn([f"undersong/split/1:{self._entry.split_seed}:{place}" for place in places])
        texts = self._texts(part, rows)
        if self._by == "column":
            return self._by_value(part, rows, texts)
        self._keys += texts
        return self._drawn([f"undersong/split/column/1:{self._entry.split_seed}:{text}" for text in texts])

    def _texts(self, part: FilePart, rows: Rows) -> list[str]:
        cells = part.cells[self._column or ""]
        said = (
            map(cell_of, cells[rows].tolist()) if isinstance(cells, np.ndarray) else [cells[at] for at in rows.tolist()]
        )
        return [self._exchanged.get(text, text) for text in (plain(text.strip()) for text in said)]

    def _drawn(self, texts: Sequence[str]) -> Codes:
        known = {text: _draw(text) for text in dict.fromkeys(texts)}
        draws = np.array([known[text] for text in texts], np.float64)
        test = self._entry.test_fraction
        validation = (draws >= test) & (draws < test + self._entry.split.validation_fraction)
        return np.where(draws < test, 2, validation).astype(np.int8)

    def _by_value(self, part: FilePart, rows: Rows, texts: Sequence[str]) -> Codes:
        for text in texts:
            if text in self._seen or len(self._seen) < KEPT_CELLS:
                self._seen[text] += 1
        if not self._entry.split.train:
            return np.array([self._part_of.get(text, 0) for text in texts], np.int8)
        for place, text in enumerate(texts):
            if text not in self._part_of:
                told = f"{part.where(int(rows[place]))}, column {self._column}: {text!r}{hint(text, self._part_of)}"
                raise BadDataset(f"column {self._column} holds a value that its split gives to no part", told)
        return np.array([self._part_of[text] for text in texts], np.int8)

    def _by_time(self, part: FilePart, rows: Rows) -> Codes:
        name = self._column or ""
        made, misfit = self._moments.of_rows(part.cells[name], rows)
        if misfit is not None:
            told = misfit.told(name, part.where(int(rows[misfit.place])))
            raise BadDataset(f"column {name} holds a value that {misfit.why.public}", told)
        if not np.isfinite(made).all():
            told = f"{part.where(int(rows[np.argmin(np.isfinite(made))]))}, column {name}"
            raise BadDataset(f"column {name} has no moment in a row, so that its part is not known", told)
        codes = np.zeros(rows.size, np.int8)
        for code, cut in enumerate(self._cuts, 1):
            if cut is not None:
                codes[made >= cut] = code
        return codes

    def _seen_for(self, part: str) -> list[str]:
        if self._by != "column":
            return [f"no row of column {self._column} is in it"] if self._column else []
        held = [text for text, _ in self._seen.most_common(SHOWN)]
        wanted = getattr(self._entry.split, part)
        return [f"column {self._column} is never {text!r}{hint(text, self._seen)}" for text in wanted] + [
            f"it holds {', '.join(held)}"
        ]

    def _keys_of(self, known: Rows) -> list[str]:
        if self._keys:
            return [f"column:{self._keys[place]}" for place in known.tolist()]
        return [str(place) for place in known.tolist()]


def _draw(text: str) -> float:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def _fold(seed: int, key: str, fold: Fold) -> bool:
    return int(_draw(f"undersong/fold/1:{seed}:{key}") * fold.of) == fold.number - 1
