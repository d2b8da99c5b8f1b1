"""Refusals: what the platform says no to, and why.

Use cases and rules raise a `Refusal`; the edge renders it as a problem document (RFC 9457). Whatever else reaches the
edge is a bug and answers a bare 500.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import ClassVar, Final

_LONGEST_REASON: Final = 500  # of what another service says


class Kind(Enum):
    """The family of a refusal; the value is its HTTP status."""

    BAD_REQUEST = 400
    UNAUTHENTICATED = 401
    FORBIDDEN = 403
    NOT_FOUND = 404
    METHOD_NOT_ALLOWED = 405
    TIMEOUT = 408
    CONFLICT = 409
    GONE = 410
    LENGTH_REQUIRED = 411
    TOO_LARGE = 413
    UNSUPPORTED = 415
    RANGE_NOT_SATISFIABLE = 416
    INVALID = 422
    TOO_MANY = 429
    UNAVAILABLE = 503
    STORAGE_FULL = 507


@dataclass(frozen=True)
class FieldError:
    """One thing wrong with one field; `path` is a JSON pointer such as ``/strategy/params/beta``."""

    path: str
    message: str


class Refusal(Exception):
    """The request was refused."""

    kind: ClassVar[Kind] = Kind.BAD_REQUEST

    def __init__(
        self, detail: str, *, errors: Sequence[FieldError] = (), retry_after_s: float | None = None, **extra: object
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s
        self.extra = extra

    @classmethod
    @cache
    def slug(cls) -> str:
        """Return the kebab-case name that ends the problem's type, for example ``round-closed``."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()

    @classmethod
    @cache
    def title(cls) -> str:
        """Return the docstring's first line."""
        return (cls.__doc__ or Refusal.__doc__ or "").strip().splitlines()[0]

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.kind.value


class BadRequest(Refusal):
    """The request is not well formed."""

    kind = Kind.BAD_REQUEST


class Unauthenticated(Refusal):
    """The caller is not known."""

    kind = Kind.UNAUTHENTICATED


class Forbidden(Refusal):
    """The caller may not do this."""

    kind = Kind.FORBIDDEN


class NotFound(Refusal):
    """There is no such thing."""

    kind = Kind.NOT_FOUND


def no_such(thing: str, id_: str, kind: type[NotFound] = NotFound) -> NotFound:
    """Make the one answer about a thing that does not exist and about one that the caller may not see.

    A caller that may not see a thing must not learn that it exists, so both get the same bytes: raise what this
    gives at either place.
    """
    return kind(f"There is no {thing} {id_}.")


class TooSlow(Refusal):
    """The request did not come on."""

    kind = Kind.TIMEOUT


class Conflict(Refusal):
    """The request contradicts the present state."""

    kind = Kind.CONFLICT


class Gone(Refusal):
    """It existed and is over."""

    kind = Kind.GONE


class LengthRequired(Refusal):
    """The body's length must be declared."""

    kind = Kind.LENGTH_REQUIRED


class TooLarge(Refusal):
    """The body is larger than allowed."""

    kind = Kind.TOO_LARGE


class Unsupported(Refusal):
    """The body's type or coding is not supported."""

    kind = Kind.UNSUPPORTED


class Invalid(Refusal):
    """The request's content is not valid."""

    kind = Kind.INVALID


class TooMany(Refusal):
    """Too many requests."""

    kind = Kind.TOO_MANY


class Unavailable(Refusal):
    """Something that this service needs is away; try again."""

    kind = Kind.UNAVAILABLE


class StorageFull(Refusal):
    """There is no space left to store this."""

    kind = Kind.STORAGE_FULL


def reason_of(body: bytes, status: int) -> str:
    """Return why another service refused: its problem's detail, else its title, else the status."""
    try:
        problem = json.loads(body)
        return str(problem.get("detail") or problem["title"])[:_LONGEST_REASON]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"status {status}"
