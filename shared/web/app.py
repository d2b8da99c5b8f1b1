"""The application factory: a service brings its routers, everything else about HTTP is the same for all."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from undersong.shared.telemetry.metrics import say_build
from undersong.shared.web.conditional import Conditional
from undersong.shared.web.guard import JSON_LIMIT, Guard
from undersong.shared.web.health import Check, health_router
from undersong.shared.web.observe import Observe
from undersong.shared.web.problems import FieldProblem, Problem, default_problems, install_handlers
from undersong.shared.web.queries import only_known_queries
from undersong.shared.web.samples import add_samples

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    *,
    title: str,
    service: str,
    routers: Sequence[APIRouter],
    lifespan: Lifespan | None = None,
    checks: Mapping[str, Check] | None = None,
    degradable: Mapping[str, Check] | None = None,
    json_limit: int = JSON_LIMIT,
    description: str = "",
) -> FastAPI:
    """Return a service's application.

    While the lifespan runs, the service may set ``app.state.verifier`` (a PartyVerifier: signed requests) and
    ``app.state.tokens`` (a TokenDirectory: people's tokens). `checks` make the service unready, `degradable` ones only
    show. Signed requests and JSON bodies are checked before any route sees them; see `undersong.shared.web.guard`.
    """
    release = version("undersong")
    app = FastAPI(
        title=title,
        version=release,
        description=description,
        lifespan=lifespan or _no_lifespan,
        responses=default_problems(),
        redoc_url=None,
        docs_url=None,
        generate_unique_id_function=_operation_id,
    )
    app.state.verifier = None
    app.state.tokens = None
    app.state.limiter = None  # `serve` puts one here
    app.state.service = service
    app.state.stopping = asyncio.Event()  # set by `serve` when the process is asked to end; long polls watch it
    for router in routers:
        app.router.routes.extend(_worked_out(router))
    app.include_router(health_router(checks or {}, degradable or {}))
    install_handlers(app)
    app.add_middleware(Conditional)
    app.add_middleware(Guard, json_limit=json_limit)
    app.add_middleware(Observe)
    _complete_openapi(app)
    say_build(service)
    return app


_routes: dict[int, tuple[APIRouter, Sequence[BaseRoute]]] = {}  # by the router's identity: it is not hashable


def _worked_out(router: APIRouter) -> Sequence[BaseRoute]:
    """Return the routes of a module's router, as every service includes them.

    The framework works a route out when it is first asked for, a millisecond each and for each application: a process
    with several applications, as of tests, does it once.
    """
    if id(router) not in _routes:
        including = FastAPI(responses=default_problems(), openapi_url=None, generate_unique_id_function=_operation_id)
        including.include_router(router, dependencies=[Depends(only_known_queries)])
        _routes[id(router)] = (router, tuple(including.routes))
    return _routes[id(router)][1]


@asynccontextmanager
async def _no_lifespan(_app: FastAPI) -> AsyncIterator[None]:
    yield


def _operation_id(route: APIRoute) -> str:
    """Return the function's name: short, and stable when a path changes."""
    return route.name


def _complete_openapi(app: FastAPI) -> None:
    """Put the problem document's schema where the routes' responses refer to it."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            field, problem = FieldProblem.model_json_schema(), Problem.model_json_schema(ref_template=_REFERENCE)
            problem.pop("$defs", None)
            schemas.update(FieldProblem=field, Problem=problem)
            add_samples(document, app.state.service)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


_REFERENCE = "#/components/schemas/{model}"
