"""Counts, sums and sums of squares, and what they say. The one way in which the platform standardises.

Shapes: values are float64[n, m] with NaN where a value is not known; sums are float64[3, m].
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
LEAST_SCALE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Summary:
    """Means and population deviations, float64[m]; `scale` is the deviation, or 1 where a column does not vary."""

    known: Floats
    mean: Floats
    deviation: Floats

    @property
    def scale(self) -> Floats:
        """What to divide by."""
        varies = self.deviation > LEAST_SCALE * np.maximum(1, np.abs(self.mean))
        return np.where(varies, self.deviation, 1.0)


def sums_of(values: Floats) -> Floats:
    """Return counts of known values, sums, sums of squares: float64[3, m]."""
    known = np.isfinite(values)
    plain = np.where(known, values, 0.0)
    return np.stack([known.sum(axis=0).astype(np.float64), plain.sum(axis=0), (plain * plain).sum(axis=0)])


def summary_of(sums: Floats) -> Summary:
    """Return the summary of summed float64[3, m]; a column without a known value has mean and deviation 0."""
    count, total, squares = sums
    seen = np.maximum(count, 1)
    mean = total / seen
    return Summary(count, mean, np.sqrt(np.maximum(squares / seen - mean**2, 0)))


def sample_variance(count: float, total: float, squares: float) -> float | None:
    """Return the unbiased variance, or nothing for fewer than two values."""
    return None if count < 2 else max(0.0, (squares - total * total / count) / (count - 1))
