"""What one row can change of a round's sums, and what noise in those units does to answers.

The neighbour relation is one row more or less at one site. A private round sends multiples of units: each sum divided
by what one row can change of its measure's sums together (an L2 norm), times the root of the number of measures, so
that one row moves the vector of all multiples by a norm of at most one. The same noise on each multiple then costs the
same for every measure.

| measure | what one row changes | L2 norm |
| --- | --- | --- |
| histogram | rows, known, and one of below, above and the bins | sqrt(3) |
| table | rows, and one cell | sqrt(2) |
| moments | rows; by column known or outside, u, u**2; abs(u) <= m in [low, high] | sqrt(1 + sum(1 + m**2 + m**4)) |

Which sites have rows is not sent (the unit of `sites` is infinite, as that of the salt): noise protects what a least
number of sites would. Ranges that are looked for, products and clusters are not bounded, or need many rounds: refused.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from undersong.shared.statistics.measures import (
    SALT,
    Asked,
    HistogramCounts,
    Measure,
    MeasureInvalid,
    Moments,
    Scaled,
    Table,
)
from undersong.shared.statistics.results import ContingencyResult, HistogramResult, MomentResult, QuantilesResult
from undersong.shared.statistics.steps import PER_COLUMN, Tally, tallies

Floats = npt.NDArray[np.float64]


def sensitivity(measure: Measure) -> float:
    """Return what one row can change of a measure's sums, as an L2 norm; raises `MeasureInvalid` where nothing does."""
    if isinstance(measure, HistogramCounts):
        return math.sqrt(3)
    if isinstance(measure, Table):
        return math.sqrt(2)
    if isinstance(measure, Moments):
        return math.sqrt(1 + sum(1 + most**2 + most**4 for most in map(_most, measure.columns)))
    raise MeasureInvalid(f"with noise there are no {measure.measure}: only moments, histograms and tables")


def units_of(asked: Asked) -> Floats:
    """Return the unit of each sum, float64[asked.length], infinite where it is not sent; raises `MeasureInvalid`."""
    parts = [np.full(SALT, np.inf)]
    for measure in asked.measures:
        units = np.full(measure.length, unit_of(measure, asked.measures))
        units[_sites(measure)] = np.inf
        parts.append(units)
    return np.concatenate(parts)


def unit_of(measure: Measure, together: Sequence[Measure]) -> float:
    """Return the unit of a measure's sums in a round of all these; raises `MeasureInvalid`."""
    return sensitivity(measure) * math.sqrt(len(together))


def to_multiples(asked: Asked, sums: Floats) -> Floats:
    """Return a site's sums as multiples of their units, float64[asked.length]; raises `MeasureInvalid`."""
    if sums.shape != (asked.length,):
        raise MeasureInvalid(f"{sums.size} sums came, {asked.length} were asked for")
    return sums / units_of(asked)


def from_multiples(asked: Asked, multiples: Floats) -> Floats:
    """Return the sums; in place of those that were not sent, the least number of sites."""
    units = units_of(asked)
    sent = np.isfinite(units)
    return np.where(sent, multiples * np.where(sent, units, 0.0), float(asked.min_sites))


def with_noise(result: Any, measure: Measure, sums: Floats, deviation: float) -> Any:
    """Return an answer with the standard deviations of its numbers; `deviation` is that of the measure's sums."""
    if isinstance(result, HistogramResult | ContingencyResult | QuantilesResult):
        return result.model_copy(update={"noise": deviation})
    if isinstance(result, MomentResult) and isinstance(measure, Moments):
        found = {tally.scaled.column: tally for tally in tallies(measure, sums)}
        columns = [
            column if column.withheld else column.model_copy(update=_errors(found[column.column], deviation))
            for column in result.columns
        ]
        return result.model_copy(update={"columns": tuple(columns), "noise": deviation})
    return result


def _errors(tally: Tally, deviation: float) -> dict[str, float]:
    """Return the deviations of sum, mean and variance, to the first order in the noise of count, sum and squares."""
    scale, centre, known = tally.scaled.scale, tally.scaled.centre, tally.known
    mean, square = tally.sum / known, tally.squares / known
    by_count = (2 * mean**2 - square) / known
    return {
        "noise": deviation,
        "sum_noise": deviation * math.hypot(centre, scale),
        "mean_noise": deviation * scale * math.hypot(1.0, mean) / known,
        "variance_noise": deviation * scale**2 * math.hypot(1 / known, 2 * mean / known, by_count),
    }


def _most(column: Scaled) -> float:
    if column.low is None or column.high is None:
        raise MeasureInvalid(f"nothing bounds what one row can add to the sum of {column.column}: give its range")
    return max(abs(column.low - column.centre), abs(column.high - column.centre)) / column.scale


def _sites(measure: Measure) -> list[int]:
    """Return where a measure's sums say whether a site has rows."""
    if isinstance(measure, Moments):
        return [1 + PER_COLUMN * place for place in range(len(measure.columns))]
    return [0]
