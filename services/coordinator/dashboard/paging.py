"""Long tables in parts, by the number of the page."""

from collections.abc import Sequence
from typing import Annotated, TypeVar

from fastapi import Query

T = TypeVar("T")
PageNumber = Annotated[int, Query(ge=1, le=10_000)]


def part_of(items: Sequence[T], page: int, size: int) -> tuple[Sequence[T], bool]:
    """Return the items of this page, the first being 1, and whether there are more behind it."""
    return items[(page - 1) * size : page * size], len(items) > page * size
