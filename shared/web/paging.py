"""Lists over HTTP: ``?limit=&after=`` in, ``{"items": [...], "next": "…"|null}`` out."""

from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=500, description="Most items to give.")]
After = Annotated[str | None, Query(max_length=128, description="`next` of the page before.")]
AfterNumber = Annotated[int | None, Query(ge=0, lt=2**63, description="`next` of the page before.")]
NamePart = Annotated[str | None, Query(max_length=200, description="A part of the name, in either case.")]
ByTimeOrName = Annotated[
    Literal["created", "-created", "name", "-name"],
    Query(description="The order; with a minus from the last to the first."),
]
ByTime = Annotated[Literal["created", "-created"], Query(description="Oldest first; with a minus newest first.")]


class Listing(BaseModel, Generic[T]):
    """One page of a list."""

    items: list[T]
    next: str | None = Field(None, description="Ask again with ?after= this; null at the end.")
