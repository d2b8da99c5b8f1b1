"""Liveness, readiness and metrics of a service."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal

import structlog
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from shared.database import Database
from shared.database.migrations import head_revision

Check = Callable[[], Awaitable[object]]
"""Returns when all is well, and raises otherwise."""

_PATIENCE_S: Final = 2.0
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Readiness(BaseModel):
    """Whether the service can do its work, and what is missing."""

    status: Literal["ready", "unready"]
    failing: list[str] = []
    degraded: list[str] = []


class SchemaBehindError(Exception):
    """The database's schema is not the one that this code needs."""


def schema_check(database: Database, service: str) -> Check:
    """Checks that all migrations have run."""
    head = head_revision(service)

    async def check() -> None:
        present = await database.schema_revision()
        if present != head:
            raise SchemaBehindError(f"the schema stands at {present}, this code needs {head}: run migrate")

    return check


def database_checks(database: Database, service: str) -> dict[str, Check]:
    """The checks that no service is ready without."""
    return {"database": database.ping, "schema": schema_check(database, service)}


def health_router(checks: Mapping[str, Check], degradable: Mapping[str, Check]) -> APIRouter:
    """``/health/live``, ``/health/ready`` and ``/metrics``."""
    router = APIRouter(tags=["health"])

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """The process runs."""
        return {"status": "live"}

    @router.get("/health/ready", response_model=Readiness, responses={503: {"model": Readiness}})
    async def ready() -> Response:
        """The service can do its work; what it can do without for a while is listed as degraded."""
        failing, degraded = await asyncio.gather(_failing(checks), _failing(degradable))
        state = Readiness(status="unready" if failing else "ready", failing=failing, degraded=degraded)
        return JSONResponse(state.model_dump(), 503 if failing else 200)

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


async def _failing(checks: Mapping[str, Check]) -> list[str]:
    names = list(checks)
    results = await asyncio.gather(*(_passes(name, checks[name]) for name in names))
    return [name for name, passed in zip(names, results, strict=True) if not passed]


async def _passes(name: str, check: Check) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await check()
    except Exception as error:  # noqa: BLE001  (whatever a driver raises, the answer is the same)
        log.warning("readiness.failed", check=name, reason=str(error) or type(error).__name__)
        return False
    return True
