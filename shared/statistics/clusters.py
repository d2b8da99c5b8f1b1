"""k-means by sums: a site gives sizes, sums and squared distances; the centres move between rounds.

Source: Lloyd, Least Squares Quantization in PCM (IEEE Transactions on Information Theory, 1982). The first centres are
drawn without looking at data, from several starts at once, and the start with the least squared distance is the answer.
Departs: a cluster of fewer than `least` rows does not move to their mean, which would show it; it starts again beside
the cluster that is spread most. Shapes: k clusters, p columns, values float64[n, p] in scaled units.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClusterSums:
    """The sums of one step: sizes [k], sums [k, p], squared distances [k]."""

    sizes: Floats
    sums: Floats
    spread: Floats

    @property
    def inertia(self) -> float:
        """The squared distances of all rows to the centres that they were assigned to."""
        return float(self.spread.sum())


def step_of(values: Floats, centres: Floats) -> ClusterSums:
    """Return what rows without a missing value add up to."""
    distance = (values**2).sum(axis=1)[:, None] - 2 * values @ centres.T + (centres**2).sum(axis=1)
    nearest = distance.argmin(axis=1)
    clusters = len(centres)
    squared = np.maximum(distance[np.arange(len(values)), nearest], 0)
    return ClusterSums(
        np.bincount(nearest, minlength=clusters).astype(np.float64),
        np.stack([np.bincount(nearest, values[:, p], clusters) for p in range(centres.shape[1])], axis=1),
        np.bincount(nearest, squared, clusters).astype(np.float64),
    )


def pack(step: ClusterSums) -> Floats:
    """float64[k (p + 2)]."""
    return np.concatenate([step.sizes, step.sums.ravel(), step.spread])


def unpack(sums: Floats, clusters: int, columns: int) -> ClusterSums:
    """Return the step from its summed numbers."""
    sizes, rest = sums[:clusters], sums[clusters:]
    return ClusterSums(sizes, rest[:-clusters].reshape(clusters, columns), rest[-clusters:])


def first_centres(clusters: int, columns: int, seed: int, start: int) -> Floats:
    """Return where a start begins: standard normal draws, which depend on no data."""
    return np.random.default_rng([seed, start]).normal(size=(clusters, columns))


def moved(step: ClusterSums, centres: Floats, least: int, seed: int, turn: int) -> Floats:
    """Return the next centres."""
    large = step.sizes >= max(least, 1)
    after = np.where(large[:, None], step.sums / np.maximum(step.sizes, 1)[:, None], centres)
    if large.any() and not large.all():
        widest = int(np.argmax(np.where(large, step.spread, -1)))
        draws = np.random.default_rng([seed, turn, 1]).normal(size=centres.shape)
        after[~large] = after[widest] + draws[~large] / 2
    return after
