"""Every request that the client can make, as a value: what to send, and what the answer becomes.

The sync and the async client differ only in how they send one; paths and shapes stand here once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request: service name, method, path under /v1, and the type of the answer (None: no body)."""

    service: str
    method: str
    path: str
    answer: type[T]
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str | int] = field(default_factory=dict)

    def parse(self, document: object) -> T:
        """Return the answer's JSON as its type; raises ValidationError for an answer of another shape."""
        return TypeAdapter(self.answer).validate_python(document)


def get(service: str, path: str, answer: type[T], **query: str | int | None) -> Call[T]:
    """Return a GET request; parts of the query that are None are left out."""
    return Call(service, "GET", path, answer, query={key: value for key, value in query.items() if value is not None})


def post(service: str, path: str, answer: type[T], body: Mapping[str, Any] | None = None) -> Call[T]:
    """Return a POST request."""
    return Call(service, "POST", path, answer, body=body if body is not None else {})


def quoted(value: str) -> str:
    """Return an id or name as one part of a path."""
    return quote(value, safe="")
