"""Scopes of API tokens: which kinds of requests a token is for, below what its user's roles allow.

A scope is ``AREA:read`` or ``AREA:write``; writing includes reading. The area of an operation is told by its path, so
that one check (`check_scopes`, called where the bearer token is read) holds for every route of every service. A path
that no area names is refused for tokens with scopes.
"""

from collections.abc import Collection
from typing import Final, Literal, get_args

from undersong.shared.errors import Forbidden

AREAS: Final = {
    "jobs": ("jobs", "job-comparison", "rounds", "dead-tasks", "schedules", "sweeps", "evidence"),
    "models": ("models", "versions", "blobs"),
    "sites": ("federations", "sites"),
    "accounts": ("users", "tokens", "audit-entries", "pending-actions"),
    "webhooks": ("webhooks", "deliveries"),
}
"""Each area with the words of the paths that belong to it; where a path has several of them, the last counts."""
Scope = Literal[
    "jobs:read", "jobs:write", "models:read", "models:write", "sites:read", "sites:write", "accounts:read",
    "accounts:write", "webhooks:read", "webhooks:write",
]  # fmt: skip
SCOPES: Final[tuple[str, ...]] = get_args(Scope)
_AREA_OF: Final = {word: area for area, words in AREAS.items() for word in words}
_ANY: Final = frozenset({"/v1/me", "/v1/sign-on"})  # who one is, and to end it
_READ_BY_POST: Final = frozenset({"/v1/jobs/validations", "/v1/jobs/privacy-plan", "/v1/sweeps/validations"})


class ScopeMissing(Forbidden):
    """The token's scopes do not include this operation."""


def scope_of(method: str, template: str) -> str | None:
    """Return the scope that an operation needs; None where any token will do. Raises KeyError for an unknown path."""
    if template in _ANY:
        return None
    words = [word for word in template.split("/") if word in _AREA_OF]
    if not words:
        raise KeyError(template)
    reads = method in ("GET", "HEAD") or template in _READ_BY_POST
    return f"{_AREA_OF[words[-1]]}:{'read' if reads else 'write'}"


def covers(scopes: Collection[str], wanted: str) -> bool:
    """Return whether the scopes include `wanted`."""
    return wanted in scopes or wanted.removesuffix(":read") + ":write" in scopes


def check_scopes(scopes: Collection[str] | None, method: str, template: str) -> None:
    """Raise ScopeMissing unless a token with these scopes (None: without limits) may call the operation."""
    if scopes is None:
        return
    has = f"the token is for {', '.join(sorted(scopes)) or 'nothing'}"
    try:
        wanted = scope_of(method, template)
    except KeyError:
        raise ScopeMissing(f"{has}; this needs a token without scopes") from None
    if wanted is not None and not covers(scopes, wanted):
        raise ScopeMissing(f"{has}; this needs {wanted}: undersong token create NAME --scope {wanted}")
