"""Lists in pages: by key, never by offset, so that a page costs the same however far down it lies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, and_, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items and, unless they are the last, the key to ask for more `after`."""

    items: Sequence[T]
    next: str | None

    def map(self, convert: Callable[[T], U]) -> "Page[U]":
        """Return the same page of converted items."""
        return Page([convert(item) for item in self.items], self.next)


def ordering(
    sort: str, columns: Mapping[str, InstrumentedAttribute[Any]]
) -> tuple[InstrumentedAttribute[Any] | None, bool]:
    """Return the column that a list is ordered by before its key (none for `created`: ids sort by time), and whether
    it falls: ``-name`` is by the name from the last to the first.
    """
    return columns.get(sort.removeprefix("-")), sort.startswith("-")


async def page(
    session: AsyncSession,
    query: Select[T],
    key: InstrumentedAttribute[Any],
    limit: int,
    after: str | None,
    *,
    descending: bool = False,
    by: InstrumentedAttribute[Any] | None = None,
    within: ColumnElement[bool] | None = None,
) -> Page[T]:
    """Return one page of at most `limit` rows of `query`, ordered by the unique column `key`, beyond the key `after`.

    `after` is a page's `next`; for an integer key it is that number in decimal (ValueError when it is not one).
    `by` is a column without nulls that comes before the key in the order; `within` are then the rows that the reader
    may see, so that no other row can be asked for as `after`.
    """
    first = key if by is None else by
    if after is not None:
        bound = int(after) if key.type.python_type is int else after
        if by is None:
            query = query.where(key < bound if descending else key > bound)
        else:
            seen = true() if within is None else within
            last = select(by).where(key == bound, seen).scalar_subquery()
            query = query.where(or_(by < last if descending else by > last, and_(by == last, key > bound)))
    order = [first.desc() if descending else first.asc(), *([] if by is None else [key.asc()])]
    rows = (await session.scalars(query.order_by(*order).limit(limit + 1))).all()
    items = rows[:limit]
    more = len(rows) > limit
    return Page(items, str(getattr(items[-1], key.key)) if more else None)
