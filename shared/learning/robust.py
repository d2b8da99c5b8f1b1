"""Rules that take the place of the mean where single updates are visible: what few sites send cannot move them far.

Sources: coordinate-wise median and trimmed mean, Yin, Chen, Ramchandran, Bartlett (ICML 2018), definitions 1 and 2;
Krum and Multi-Krum, Blanchard, El Mhamdi, Guerraoui, Stainer (NeurIPS 2017), section 3.
Shapes: updates are float32[n, d], one row each; every rule returns float32[d]. All sites count the same.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Params = Mapping[str, float]
_BLOCK: Final = 65_536  # coordinates that are sorted at a time


@dataclass(frozen=True, slots=True)
class RobustRule:
    """A rule, how many sites it needs at least, and why."""

    combine: Callable[[Vector, Params], Vector]
    least: Callable[[Params], int]
    why: str


def median(updates: Vector, params: Params) -> Vector:  # noqa: ARG001
    """Return the median of each coordinate."""
    return _by_blocks(updates, lambda block: np.median(block, axis=0))


def trimmed_mean(updates: Vector, params: Params) -> Vector:
    """Return the mean of each coordinate without the share `trim` of the largest and of the smallest."""
    out = _trimmed(len(updates), params["trim"])
    return _by_blocks(updates, lambda block: np.sort(block, axis=0)[out : len(block) - out].mean(axis=0))


def krum(updates: Vector, params: Params) -> Vector:
    """Return the mean of the `kept` updates that lie closest to their n - attackers - 2 nearest others."""
    near = len(updates) - int(params["attackers"]) - 2
    if near < 1:
        raise ValueError("krum needs more updates than attackers and two")
    distances = np.array([_square_distances(updates, each) for each in updates])
    np.fill_diagonal(distances, np.inf)
    scores = np.sort(distances, axis=1)[:, :near].sum(axis=1)
    chosen = np.sort(np.argsort(scores, kind="stable")[: int(params["kept"])])
    return np.asarray(updates[chosen].mean(axis=0, dtype=np.float64), np.float32)


def _trimmed(count: int, share: float) -> int:
    return math.floor(share * count + 1e-9)


def _by_blocks(updates: Vector, rule: Callable[[Vector], npt.NDArray[np.floating]]) -> Vector:
    made = np.empty(updates.shape[1], np.float32)
    for at in range(0, made.size, _BLOCK):
        made[at : at + _BLOCK] = rule(updates[:, at : at + _BLOCK])
    return made


def _square_distances(updates: Vector, one: Vector) -> npt.NDArray[np.float64]:
    found = np.zeros(len(updates))
    for at in range(0, one.size, _BLOCK):
        apart = updates[:, at : at + _BLOCK].astype(np.float64) - one[at : at + _BLOCK]
        found += (apart * apart).sum(axis=1)
    return found


MEDIAN: Final = RobustRule(median, lambda _: 3, "a median of two is their mean")
TRIMMED_MEAN: Final = RobustRule(
    trimmed_mean, lambda p: math.ceil(1 / p["trim"] - 1e-9), "of fewer sites it leaves out none"
)
KRUM: Final = RobustRule(
    krum,
    lambda p: max(2 * int(p["attackers"]) + 3, int(p["attackers"]) + int(p["kept"])),
    "it withstands that many attackers among twice as many and three, and keeps no more updates than honest sites send",
)
