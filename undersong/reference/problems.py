"""The page of problem types: every reason for which a service refuses a request, from its class and the operations."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from undersong.openapi import DESCRIBED, application
from undersong.reference.tables import plain, table
from undersong.shared.errors import Refusal

_MOST: Final = 4  # operations that a row names
_EDGE: Final = ("undersong.shared.web.", "undersong.shared.identity.")
_INTRODUCTION: Final = """\
# Problem types

A refusal is a problem document (RFC 9457) of the type
`application/problem+json`. Its `type` is `urn:undersong:problem:<reason>` and does not change; programs decide by it,
or by the status. `detail` says what happened and what to do, `errors` names each field that is at fault by a JSON
pointer, and `request_id` finds the request in the logs.

```json
{"type": "urn:undersong:problem:job-invalid", "title": "The job cannot run as it is written.", "status": 422,
 "detail": "mu is below 0", "request_id": "req_01k5z0000000000000000000",
 "errors": [{"path": "/strategy/params/mu", "message": "mu is at least 0"}]}
```

| status | what a program does |
| --- | --- |
| 400, 411, 413, 415, 422 | It sends another request; the same one is refused again. |
| 401 | It shows another token, or signs with another certificate. |
| 403, 404 | It asks for the role, or for another thing. Things of other federations answer 404. |
| 408, 429, 503, 507 | It waits as long as `Retry-After` says, then sends the same with the same `Idempotency-Key`. |
| 409 | It reads the thing again: something else happened before. |
| 410 | It stops: what it asks for is over for good. |
| 500 | A fault of the service: the operator finds it by `request_id`. |

## Reasons

An operation's entry in [`docs/openapi`](../openapi) lists its reasons.
"""
_AT_THE_EDGE: Final = """\
## Reasons before an operation

What any request may be refused for, or any that a site or service signed, before the operation sees it.
"""


def problems() -> str:
    """Return every reason, with its status, what it means, and which operations give it."""
    given = _given()
    rows = [
        (_code(reason), " · ".join(sorted(told)), _where({name for names in told.values() for name in names}))
        for reason, told in sorted(given.items())
    ]
    edge = {
        (_code(kind.slug()), f"{kind.kind.value}: {kind.title()}")
        for kind in _kinds(Refusal)
        if kind.slug() not in given and kind.__module__.startswith(_EDGE)
    }
    return "\n".join(
        [
            _INTRODUCTION,
            table(("reason", "status and meaning", "operations"), rows),
            _AT_THE_EDGE,
            table(("reason", "status and meaning"), sorted(edge)),
        ]
    )


def _given() -> Mapping[str, Mapping[str, set[str]]]:
    """Return the operations of all services by the reasons that they declare, and by what each means there."""
    given: dict[str, dict[str, set[str]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for service in DESCRIBED:
            for name, operation in _operations(application(service, Path(scratch)).openapi()):
                for reason, meaning in _reasons(operation):
                    given.setdefault(reason, {}).setdefault(meaning, set()).add(f"{service} {name}")
    return given


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"`{method.upper()} {path}`", operation


def _reasons(operation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each reason that an operation declares, with its status and meaning: two may share a name."""
    for answer in operation["responses"].values():
        for content in answer.get("content", {}).values():
            for reason, told in content.get("examples", {}).items():
                if told["value"].get("status"):
                    yield reason, f"{told['value']['status']}: {told['summary']}"


def _kinds(of: type[Refusal]) -> Iterator[type[Refusal]]:
    for kind in of.__subclasses__():
        yield kind
        yield from _kinds(kind)


def _code(reason: str) -> str:
    return f"`{reason}`"


def _where(operations: set[str]) -> str:
    if len(operations) > _MOST:
        return "many"
    return "; ".join(plain(operation) for operation in sorted(operations))
