"""Small cells, and the other cells that must go with them so that totals do not give them back.

A count from 1 to `least` - 1 is small and is not shown; zeros are. A reader who knows the totals can subtract: in a
table with totals, a hidden cell is given away exactly when it is a bridge of the graph whose nodes are the rows and
columns and whose edges are the hidden cells.

Source: Gusfield, A Graph Theoretic Approach to Statistical Data Security (SIAM Journal on Computing 17, 1988), theorem
for tables of two ways. Totals are cells too: a row's cells less its total is zero, so the same theorem covers them.
Departs: cells are added one shortest path at a time, which is not the least number of cells. Beyond the theorem, hidden
cells of a line add up to at least `least`, or "1 + 1 = 2" would be read from two hidden cells.
"""

import heapq
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_ZERO_COST: Final = 1e9  # a zero hides nothing, so hiding it is the last thing to do
_NEVER: Final = 1e15


def hidden_counts(counts: Floats, least: int) -> Mask:
    """Return which counts of a list with a known total are not shown."""
    hidden = (counts > 0) & (counts < least)
    order = sorted(range(counts.size), key=lambda place: (counts[place] == 0, counts[place]))
    for place in order:
        if not hidden.any() or (hidden.sum() >= 2 and counts[hidden].sum() >= least):
            break
        hidden[place] = True
    return hidden


def hidden_cells(cells: Floats, least: int) -> Mask:
    """Return which cells of a table with totals are not shown: bool[r + 1, c + 1], totals last; the grand total always
    is.
    """
    whole = with_totals(cells)
    hidden = (whole > 0) & (whole < least)
    hidden[-1, -1] = False
    cost = np.where(whole == 0, _ZERO_COST, 1.0 + whole)
    cost[-1, -1] = _NEVER
    while True:
        grown = _close(hidden, cost) or _fill(hidden, whole, cost, least)
        if not grown:
            return hidden


def with_totals(cells: Floats) -> Floats:
    """Return the table with a last column and a last row of totals."""
    wide = np.concatenate([cells, cells.sum(axis=1, keepdims=True)], axis=1)
    return np.concatenate([wide, wide.sum(axis=0, keepdims=True)], axis=0)


def _close(hidden: Mask, cost: Floats) -> bool:
    """Put the first hidden cell that is on no cycle on one; whether any was added."""
    for row, column in np.argwhere(hidden):
        free = np.where(hidden, 0.0, cost)
        free[row, column] = np.inf
        path = _path(free, int(row), int(column))
        if any(not hidden[cell] for cell in path):
            for cell in path:
                hidden[cell] = True
            return True
    return False


def _fill(hidden: Mask, whole: Floats, cost: Floats, least: int) -> bool:
    """Hide one more cell of the first line whose hidden cells can be told to be small; whether there was one."""
    for flip in (False, True):
        lines = (hidden.T, whole.T, cost.T) if flip else (hidden, whole, cost)
        for mask, values, price in zip(*lines, strict=True):
            inner = mask[:-1]
            if inner.any() and not mask[-1] and values[:-1][inner].sum() < least:
                left = np.flatnonzero(~inner & (values[:-1] > 0))
                if left.size:
                    mask[left[np.argmin(price[:-1][left])]] = True
                    return True
    return False


def _path(free: Floats, row: int, column: int) -> list[tuple[int, int]]:
    """Return the cheapest way from a row to a column over cells (Dijkstra); its cells."""
    rows = len(free)
    best: dict[int, float] = {row: 0.0}
    came: dict[int, int] = {}
    queue = [(0.0, row)]
    while queue:
        spent, node = heapq.heappop(queue)
        if spent > best[node]:
            continue
        if node == rows + column:
            break
        around = free[node] if node < rows else free[:, node - rows]
        for other, price in enumerate(around):
            following = rows + other if node < rows else other
            if spent + price < best.get(following, np.inf):
                best[following], came[following] = spent + float(price), node
                heapq.heappush(queue, (best[following], following))
    cells, node = [], rows + column
    while node in came:
        before = came[node]
        cells.append((before, node - rows) if before < rows else (node, before - rows))
        node = before
    return cells
