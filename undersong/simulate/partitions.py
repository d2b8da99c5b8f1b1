"""Deals training rows to clients. Pure: rows are numbers, and the same seed deals them in the same way.

Sources: shards, McMahan et al. (AISTATS 2017), section 3: sorted by label, cut into pieces of one size, a few for each
client. Dirichlet, Hsu, Qi and Brown (2019): every client has equally many rows, and draws the shares of its classes
from a symmetric Dirichlet distribution; rows are taken without replacement, and a class that is used up is left out.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.simulate.conditions import DIRICHLET, IID, SHARDS, ConditionsInvalid, PartitionRule

Rows = npt.NDArray[np.int64]
MOST_CLASSES: Final = 1000
_DOMAIN: Final = 0x5EED


@dataclass(frozen=True, slots=True)
class Split:
    """Every row at one client: client i has `rows[offsets[i]:offsets[i + 1]]`, in the order of the data set.

    `names` are the clients' names, where the data have some.
    """

    rows: Rows
    offsets: Rows
    names: tuple[str, ...] = ()

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return self.offsets.size - 1

    @property
    def sizes(self) -> Rows:
        """How many rows each client has."""
        return np.diff(self.offsets)

    def of(self, client: int) -> Rows:
        """Return the rows of one client."""
        return self.rows[self.offsets[client] : self.offsets[client + 1]]


def split_rows(rule: PartitionRule, labels: npt.NDArray[np.float64], clients: int, seed: int) -> Split:
    """Deal row 0 to n - 1 of these labels to clients, at least one each; raises `ConditionsInvalid`."""
    pieces = clients * int(rule.value) if rule.kind == SHARDS else clients
    if labels.size < pieces:
        what = f"{pieces} shards" if rule.kind == SHARDS else f"{clients} clients"
        raise ConditionsInvalid(
            f"there are {labels.size} training rows for {what}", remedy="give fewer clients, or more data"
        )
    random = np.random.default_rng([_DOMAIN, seed])
    if rule.kind == IID:
        return _joined(np.array_split(random.permutation(labels.size), clients))
    if rule.kind == SHARDS:
        return _shards(labels, clients, int(rule.value), random)
    if rule.kind == DIRICHLET:
        return _dirichlet(labels, clients, rule.value, random)
    raise ValueError(f"partition {rule.kind} is not one of rows alone")


def owners_by_value(
    values: npt.NDArray[np.float64], split: Split, others: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Return the client of each of these other rows, by the value that its own rows have; -1 where no client has it."""
    known = values[split.rows[split.offsets[:-1]]]  # ascending, a missing value last
    place = np.minimum(np.searchsorted(known, others), known.size - 1)
    same = (known[place] == others) | (np.isnan(known[place]) & np.isnan(others))
    return np.where(same, place, -1)


def owners_by_label(
    labels: npt.NDArray[np.float64], split: Split, others: npt.NDArray[np.float64], seed: int
) -> npt.NDArray[np.int64]:
    """Return a client for each of these other rows: that of a row with the same label, drawn at random.

    So a client is tested on labels in about the shares that it trains on. A label that no row has counts as the nearest
    one.
    """
    if not split.rows.size:
        return np.full(others.size, -1, np.int64)
    client = np.empty(labels.size, np.int64)
    client[split.rows] = np.repeat(np.arange(split.clients), split.sizes)
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    below = np.clip(np.searchsorted(ordered, others) - 1, 0, labels.size - 1)
    above = np.clip(below + 1, 0, labels.size - 1)
    nearest = np.where(np.abs(ordered[above] - others) <= np.abs(ordered[below] - others), above, below)
    first, end = (np.searchsorted(ordered, ordered[nearest], side) for side in ("left", "right"))
    drawn = np.random.default_rng([_DOMAIN, 1, seed]).random(others.size)
    return client[order[first + (drawn * (end - first)).astype(np.int64)]]


def split_by_value(values: npt.NDArray[np.float64], names: dict[float, str]) -> Split:
    """Make one client for each value of a column; NaN is a value of its own, `(missing)`."""
    found, place = np.unique(values, return_inverse=True, equal_nan=True)
    parts = [np.flatnonzero(place.reshape(-1) == at) for at in range(found.size)]
    told = ["(missing)" if np.isnan(value) else names.get(value, f"{value:g}") for value in found.tolist()]
    return _joined(parts, told)


def no_rows(clients: int) -> Split:
    """Return clients without rows, for recipes that need none."""
    return Split(np.zeros(0, np.int64), np.zeros(clients + 1, np.int64))


def _shards(labels: npt.NDArray[np.float64], clients: int, each: int, random: np.random.Generator) -> Split:
    shuffled = random.permutation(labels.size)
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    shards = np.array_split(ordered, clients * each)
    dealt = random.permutation(len(shards)).reshape(clients, each)
    return _joined([np.concatenate([shards[at] for at in mine]) for mine in dealt.tolist()])


def _dirichlet(
    labels: npt.NDArray[np.float64], clients: int, concentration: float, random: np.random.Generator
) -> Split:
    classes, place = np.unique(labels, return_inverse=True)
    if classes.size > MOST_CLASSES:
        raise ConditionsInvalid(
            f"the label has {classes.size} values, and partition dirichlet draws shares of classes",
            remedy="use iid, shards or by:COLUMN for a label of numbers",
        )
    pools = [random.permutation(np.flatnonzero(place == at)) for at in range(classes.size)]
    left, taken = np.array([pool.size for pool in pools]), np.zeros(classes.size, np.int64)
    sizes = [part.size for part in np.array_split(np.empty(labels.size, np.int8), clients)]
    parts = []
    for size in sizes:
        shares = random.dirichlet(np.full(classes.size, concentration))
        counts = _drawn(size, shares, left, random)
        parts.append(np.concatenate([pools[at][taken[at] : taken[at] + n] for at, n in enumerate(counts.tolist())]))
        left, taken = left - counts, taken + counts
    return _joined(parts)


def _drawn(size: int, shares: npt.NDArray[np.float64], left: Rows, random: np.random.Generator) -> Rows:
    """Return how many rows of each class a client gets: drawn by its shares, of those that are left."""
    counts = np.zeros_like(left)
    while (missing := size - int(counts.sum())) > 0:
        weights = np.where(left > counts, np.nan_to_num(shares), 0.0)
        if weights.sum() <= 0:  # all classes of this client are used up
            weights = (left - counts).astype(np.float64)
        counts = np.minimum(left, counts + random.multinomial(missing, weights / weights.sum()))
    return counts


def _joined(parts: list[Rows], names: list[str] | None = None) -> Split:
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([part.size for part in parts], out=offsets[1:])
    rows = np.concatenate([np.sort(part) for part in parts]).astype(np.int64)
    return Split(rows, offsets, tuple(names or ()))
