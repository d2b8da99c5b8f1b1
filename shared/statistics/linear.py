"""Correlation and linear regression from sums of products.

Source: the normal equations X'X b = X'y (any textbook; names as in Seber & Lee, Linear Regression Analysis, ch. 3).
Terms come centred and scaled by about their mean and deviation, so that the matrix is well conditioned and a float64
loses nothing. Shapes: m terms; sums float64[m], products float64[m, m].
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
DEPENDENT: Final = 1e-9  # an eigenvalue of a correlation matrix below this is a linear relation between columns
_NAMED: Final = 0.1


@dataclass(frozen=True, slots=True)
class Fit:
    """A linear model: coefficients and standard errors float64[1 + m], the intercept first."""

    coefficients: Floats
    errors: Floats | None
    r2: float
    residual: float
    freedom: int


class Dependent(ValueError):
    """Some columns are linear combinations of one another; `places` says which."""

    def __init__(self, places: list[int]) -> None:
        super().__init__("columns depend linearly on one another")
        self.places = places


def centred(count: float, sums: Floats, products: Floats) -> Floats:
    """Products about the means, float64[m, m]."""
    about: Floats = products - np.outer(sums, sums) / count
    return about


def square_of(upper: Floats, terms: int) -> Floats:
    """Return the symmetric float64[m, m] of its upper triangle, row by row."""
    made = np.zeros((terms, terms))
    made[np.triu_indices(terms)] = upper
    return made + np.triu(made, 1).T


def principal_axes(matrix: Floats) -> tuple[Floats, Floats]:
    """Return variances float64[m], the largest first, and axes float64[m, m] (columns) of a correlation matrix.

    An axis has length one, and the number of it that is largest in size is positive.
    """
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    axes: Floats = vectors * np.sign(vectors[largest, np.arange(values.size)])
    return values, axes


def correlation(count: float, sums: Floats, products: Floats) -> Floats:
    """Pearson's correlations, float64[m, m]; NaN in the lines of a term that does not vary."""
    about = centred(count, sums, products)
    spread = np.sqrt(np.maximum(np.diag(about), 0))
    still = spread <= 1e-7 * np.sqrt(np.maximum(np.diag(products), 1e-300))
    spread[still] = np.nan
    found: Floats = np.clip(about / np.outer(spread, spread), -1, 1)
    np.fill_diagonal(found, np.where(still, np.nan, 1.0))
    return found


def regression(count: float, sums: Floats, products: Floats, centre: Floats, scale: Floats, ridge: float = 0.0) -> Fit:
    """Least squares of the last term on the others, in the columns' own units; raises `Dependent`.

    `ridge` is the weight of the squared coefficients of standardised columns; with it there are no standard errors.
    """
    about = centred(count, sums, products)
    x, y = about[:-1, :-1], about[:-1, -1]
    check_independent(x, ridge)
    inverse = np.linalg.inv(x + ridge * count * np.eye(len(x)))
    slope = inverse @ y
    left = max(0.0, float(about[-1, -1] - 2 * slope @ y + slope @ x @ slope))
    freedom = int(count) - len(slope) - 1
    variance = left / freedom if freedom > 0 else math.nan
    unit = scale[-1] / scale[:-1]
    own = slope * unit
    # Where the first terms' zero lies in their own units, for the intercept and its error.
    origin = sums[:-1] / count + centre[:-1] / scale[:-1]
    level = (sums[-1] / count - slope @ origin) * scale[-1] + centre[-1]
    errors = None
    if not ridge and freedom > 0:
        level_error = math.sqrt(variance * (1 / count + float(origin @ inverse @ origin))) * scale[-1]
        errors = np.concatenate([[level_error], np.sqrt(variance * np.diag(inverse)) * unit])
    spread = float(about[-1, -1])
    r2 = 1 - left / spread if spread > 0 else math.nan
    return Fit(np.concatenate([[level], own]), errors, r2, math.sqrt(variance) * float(scale[-1]), freedom)


def check_independent(x: Floats, ridge: float) -> None:
    """Raise `Dependent` for terms whose products about the mean, float64[m, m], are not of full rank."""
    spread = np.sqrt(np.maximum(np.diag(x), 0))
    still = [int(place) for place in np.flatnonzero(spread <= 1e-7 * max(1.0, float(spread.max(initial=0))))]
    if still:
        raise Dependent(still)
    if ridge:
        return
    values, vectors = np.linalg.eigh(x / np.outer(spread, spread))
    if values[0] < DEPENDENT * len(x):
        raise Dependent([int(place) for place in np.flatnonzero(np.abs(vectors[:, 0]) > _NAMED)])


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % point of Student's t, within 1e-3 from 3 degrees of freedom on.

    Source: Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    exact = {1: 12.7062, 2: 4.30265, 3: 3.18245}
    if freedom in exact:
        return exact[freedom]
    z = 1.959963984540054
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(float(term / freedom ** (place + 1)) for place, term in enumerate(terms))
