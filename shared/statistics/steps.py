"""What every query's steps share: the setting, and why an answer is withheld.

A query is answered by a generator: it yields a measure, is sent the federation's sums for it, and returns the answer.
Everything is a function of the sums that came before, so an answer can be computed again from the start at any time.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from undersong.shared.statistics import ranges
from undersong.shared.statistics.measures import Measure, Moments, Ranges, Scaled
from undersong.shared.statistics.moments import sample_variance
from undersong.shared.wire.profiles import Column

Floats = npt.NDArray[np.float64]
T = TypeVar("T")
Steps = Generator[Measure, Floats, T]
PER_COLUMN: Final = 5
_SAME: Final = 1e-6
LARGEST: Final = 1e15
"""The largest number that a measure can name."""


class Withheld(Exception):
    """The answer would rest on too few rows or too few sites."""


class Unusable(Exception):
    """The data give no answer."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What holds for all queries of a job: the columns as all sites agree on them, and what may be shown.

    `min_cell`: the least number of rows behind a number; `min_sites`: the least number of sites that hold such rows.
    `noisy`: the sums have noise, which protects small counts better than hiding them does.
    """

    columns: Mapping[str, Column]
    min_cell: int
    min_sites: int
    noisy: bool = False

    @property
    def least(self) -> int:
        """Counts below it are hidden."""
        return 0 if self.noisy else self.min_cell

    def check(self, sites: float, rows: float, what: str = "this answer") -> None:
        """Raise `Withheld` for too few."""
        if rows < self.min_cell:
            raise Withheld(f"fewer than {self.min_cell} rows stand behind {what}")
        if sites < self.min_sites:
            raise Withheld(f"fewer than {self.min_sites} sites hold rows for {what}")

    def shown(self, count: float) -> float | None:
        """Return a count, or nothing where it is small."""
        return float(round(count)) if self.noisy or count == 0 or count >= self.min_cell else None


@dataclass(frozen=True, slots=True)
class Tally:
    """One column's moments, of u = (v - centre) / scale over `known` values inside its range."""

    scaled: Scaled
    rows: float
    sites: float
    known: float
    outside: float
    sum: float
    squares: float

    @property
    def total(self) -> float:
        """The sum of values."""
        return self.scaled.centre * self.known + self.scaled.scale * self.sum

    @property
    def mean(self) -> float:
        """The mean value; there must be one."""
        return self.scaled.centre + self.scaled.scale * self.sum / self.known

    @property
    def variance(self) -> float | None:
        """The sample's variance."""
        own = sample_variance(self.known, self.sum, self.squares)
        return None if own is None else own * self.scaled.scale**2

    @property
    def blurred(self) -> bool:
        """Whether the variance is a small difference of large numbers, so that a centred round is worth it."""
        own = sample_variance(self.known, self.sum, self.squares)
        return own is not None and self.squares > 1e6 * max(own, 1e-12) * self.known

    @property
    def ones(self) -> float | None:
        """How many ones there are, if all values are zeros and ones: then the sum is a count."""
        centre, scale = self.scaled.centre, self.scaled.scale
        squares = centre**2 * self.known + 2 * centre * scale * self.sum + scale**2 * self.squares
        within = abs(squares - self.total) <= _SAME * max(1.0, self.known)
        return self.total if within and -_SAME <= self.total <= self.known + _SAME else None

    def check(self, setting: Setting) -> None:
        """Raise `Withheld` where the column's mean may not be shown."""
        setting.check(self.sites, self.known, self.scaled.column)
        if self.ones is not None:
            for count in (self.ones, self.known - self.ones):
                if setting.shown(float(round(count))) is None:
                    raise Withheld(f"{self.scaled.column} holds zeros and ones, one of them in few rows")


def tallies(asked: Moments, sums: Floats) -> list[Tally]:
    """Return the moments by column."""
    parts = sums[1:].reshape(-1, PER_COLUMN)
    return [Tally(c, float(sums[0]), *map(float, part)) for c, part in zip(asked.columns, parts, strict=True)]


def scaled(column: str, bounds: tuple[float, float] | None) -> Scaled:
    """Return a column within bounds, scaled so that they are -1 and 1; or as it is."""
    if bounds is None:
        return Scaled(column=column)
    low, high = bounds
    return Scaled(column=column, centre=(low + high) / 2, scale=(high - low) / 2, low=low, high=high)


def standardised(columns: tuple[str, ...], setting: Setting) -> Steps[list[Scaled]]:
    """Yield a round for mean and deviation of each column, which later rounds are scaled by; raises `Withheld`."""
    asked = Moments(columns=tuple(Scaled(column=name) for name in columns))
    sums = yield asked
    made = []
    for tally in tallies(asked, sums):
        tally.check(setting)
        deviation = float(np.sqrt(tally.variance or 0.0))
        if not (abs(tally.mean) <= LARGEST and deviation <= LARGEST):
            said = f"{tally.scaled.column} holds numbers beyond {LARGEST:g}"
            raise Unusable(f"{said}: declare its range at the sites, or give it in a larger unit")
        still = deviation <= 1e-9 * max(1.0, abs(tally.mean))
        made.append(Scaled(column=tally.scaled.column, centre=tally.mean, scale=1.0 if still else deviation))
    return made


def range_for(column: str, given: tuple[float, float] | None, setting: Setting) -> Steps[tuple[float, float]]:
    """Yield the given range, or one that the data give in a round of its own; raises `Withheld`."""
    if given is not None:
        return given
    sums = yield Ranges(columns=(column,))
    setting.check(float(sums[0]), float(sums[1]), column)
    found = ranges.range_of(sums[2:], setting.min_cell)
    if found is None:
        raise Withheld(f"{column} has too few values for a range; give one")
    return found
