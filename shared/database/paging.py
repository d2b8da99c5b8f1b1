"""Lists in pages: by key, never by offset, so that a page costs the same however far down it lies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
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


async def page(
    session: AsyncSession,
    query: Select[T],
    key: InstrumentedAttribute[Any],
    limit: int,
    after: str | None,
    *,
    descending: bool = False,
) -> Page[T]:
    """Return one page of at most `limit` rows of `query`, ordered by the unique column `key`, beyond the key `after`.

    `after` is a page's `next`; for an integer key it is that number in decimal (ValueError when it is not one).
    """
    if after is not None:
        bound = int(after) if key.type.python_type is int else after
        query = query.where(key < bound if descending else key > bound)
    query = query.order_by(key.desc() if descending else key.asc()).limit(limit + 1)
    rows = (await session.scalars(query)).all()
    items = rows[:limit]
    more = len(rows) > limit
    return Page(items, str(getattr(items[-1], key.key)) if more else None)
