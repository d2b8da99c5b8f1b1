"""Problem documents (RFC 9457): how refusals leave the building."""

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from undersong.shared.errors import (
    BadRequest,
    FieldError,
    Forbidden,
    Invalid,
    Kind,
    NotFound,
    Refusal,
    TooLarge,
    TooSlow,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from undersong.shared.web.answers import Answered
from undersong.shared.web.limits import Overloaded, RateLimited

MEDIA_TYPE: Final = "application/problem+json"
_SERVER_ERROR: Final = 500
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class MethodNotAllowed(Refusal):
    """This address does not know that method."""

    kind = Kind.METHOD_NOT_ALLOWED


class RequestInvalid(Invalid):
    """The request does not have the required form."""


class FieldProblem(BaseModel):
    """One thing wrong with one field."""

    path: str = Field(description="JSON pointer into the body, or ?name of a query parameter, or the header's name")
    message: str


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="urn:undersong:problem:<reason>: stable, for programs")
    title: str
    status: int
    detail: str
    request_id: str | None = None
    errors: list[FieldProblem] = []


def problem_type(refusal: type[Refusal]) -> str:
    """Return the stable URN of a reason."""
    return f"urn:undersong:problem:{refusal.slug()}"


def problem_response(refusal: Refusal, request_id: str | None = None) -> Response:
    """Return the refusal as a response."""
    document: dict[str, Any] = {
        "type": problem_type(type(refusal)),
        "title": refusal.title(),
        "status": refusal.status,
        "detail": refusal.detail,
        "request_id": request_id,
        "errors": [{"path": error.path, "message": error.message} for error in refusal.errors],
    }
    document.update((name, value) for name, value in refusal.extra.items() if name not in document)
    headers = {}
    if refusal.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(refusal.retry_after_s)))
    if isinstance(refusal, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    return Response(json.dumps(document).encode(), refusal.status, headers, MEDIA_TYPE)


def bare_error_response(request_id: str | None) -> Response:
    """Return what a bug of ours looks like from outside: nothing but an id to look for in the logs."""
    document = {"type": "about:blank", "title": "Internal error", "status": _SERVER_ERROR, "request_id": request_id}
    return Response(json.dumps(document).encode(), _SERVER_ERROR, media_type=MEDIA_TYPE)


def problems(*refusals: type[Refusal]) -> dict[int | str, dict[str, Any]]:
    """For a route's ``responses=``: one entry a status, with an example a reason."""
    grouped: dict[int | str, list[type[Refusal]]] = {}
    for refusal in refusals:
        grouped.setdefault(refusal.kind.value, []).append(refusal)
    return {status: _described(reasons) for status, reasons in grouped.items()}


def _described(reasons: Sequence[type[Refusal]]) -> dict[str, Any]:
    examples = {
        reason.slug(): {
            "summary": reason.title(),
            "value": {
                "type": problem_type(reason),
                "title": reason.title(),
                "status": reason.kind.value,
                "detail": reason.title(),
                "request_id": "req_01k5z0000000000000000000",
                "errors": [],
            },
        }
        for reason in reasons
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": " ".join(reason.title() for reason in reasons),
        "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }


def default_problems() -> dict[int | str, dict[str, Any]]:
    """Return what any route may answer beside its own refusals."""
    other: dict[str, Any] = {
        "description": "A problem document.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    usual = problems(BadRequest, TooSlow, TooLarge, Unsupported, RequestInvalid, RateLimited, Unavailable, Overloaded)
    return {**usual, "default": other}


def request_id_of(request: Request) -> str | None:
    """Return the id that the edge gave this request."""
    request_id: str | None = request.scope.get("state", {}).get("request_id")
    return request_id


def pointer(location: Sequence[str | int]) -> str:
    """FastAPI's location of an error: ``/a/0`` in the body, ``?name`` in the query, otherwise ``<where> <name>``."""
    if not location:
        return ""
    where, rest = location[0], [str(part).replace("~", "~0").replace("/", "~1") for part in location[1:]]
    if where == "body":
        return "".join(f"/{part}" for part in rest)
    return f"?{'.'.join(rest)}" if where == "query" else f"{where} {'.'.join(rest)}"


def install_handlers(app: FastAPI) -> None:
    """Render refusals, validation errors and the framework's own errors as problem documents."""
    app.add_exception_handler(Refusal, _refusal)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Answered, _answered)


async def _refusal(request: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise error
    log.info("request.refused", reason=error.slug(), status=error.status, detail=error.detail)
    return problem_response(error, request_id_of(request))


async def _validation(request: Request, error: Exception) -> Response:
    found: Sequence[Mapping[str, Any]] = error.errors() if isinstance(error, RequestValidationError) else []
    if any(item["type"] == "json_invalid" for item in found):
        log.info("request.refused", reason="bad-request", status=400, detail="the body is not valid JSON")
        return problem_response(BadRequest("the body is not valid JSON"), request_id_of(request))
    errors = [FieldError(pointer(item["loc"]), str(item["msg"])) for item in found]
    refusal = RequestInvalid(f"{len(errors)} field(s) are not valid", errors=errors)
    log.info("request.refused", reason=refusal.slug(), status=refusal.status, detail=refusal.detail)
    return problem_response(refusal, request_id_of(request))


async def _answered(_request: Request, answer: Exception) -> Response:
    if not isinstance(answer, Answered):
        raise answer
    return answer.response()


_BY_STATUS: Final[dict[int, type[Refusal]]] = {
    400: BadRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
    408: TooSlow,
    413: TooLarge,
    415: Unsupported,
}


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if isinstance(error.__cause__, Refusal):  # raised by a body's meter while the framework read the body
        return await _refusal(request, error.__cause__)
    kind = _BY_STATUS.get(error.status_code, BadRequest)
    log.info("request.refused", reason=kind.slug(), status=error.status_code, detail=str(error.detail))
    methods = ", ".join(_methods_here(request)) if kind is MethodNotAllowed else ""
    response = problem_response(kind(_said(request, error, methods)), request_id_of(request))
    response.headers.update(error.headers or {})
    if methods:
        response.headers["allow"] = methods
    return response


def _said(request: Request, error: HTTPException, methods: str) -> str:
    """Return what happened and what to do, where the framework has a status's own words only."""
    if error.detail == HTTPStatus.NOT_FOUND.phrase:
        return "This service has no such address: its OpenAPI document lists those that it has."
    if error.detail == HTTPStatus.METHOD_NOT_ALLOWED.phrase:
        return f"This address does not take {request.method}" + (f"; it takes {methods}." if methods else ".")
    return str(error.detail)


async def not_allowed() -> None:
    """Add a route for a method of a fixed address that would else be taken for an instance of a pattern."""
    raise HTTPException(MethodNotAllowed.kind.value)


def _methods_here(request: Request) -> list[str]:
    """Return what this address knows, by the API's description: the framework names the methods of one route only.

    Where a fixed address is also an instance of a pattern (``/things/new`` and ``/things/{id}``), the fixed one counts.
    """
    paths: Mapping[str, Mapping[str, object]] = request.app.openapi()["paths"]
    fitting = [path for path in paths if compile_path(path)[0].match(request.url.path)]
    if not fitting:
        return []
    return sorted(method.upper() for method in paths[min(fitting, key=lambda path: path.count("{"))])
