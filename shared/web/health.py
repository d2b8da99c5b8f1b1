"""Liveness, readiness and metrics of a service."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal

import structlog
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from undersong.shared.database import Database
from undersong.shared.database.migrations import compare_revision, head_revision

Check = Callable[[], Awaitable[object]]
"""Returns when all is well, and raises otherwise."""

_PATIENCE_S: Final = 2.0
AWAY: Final = "away"
_OWN: Final = frozenset(
    {"missing", "older", "newer", "full", "read-only", "none", "expired", "damaged", "ignored", "refused"}
)
_SIGNS: Final = {  # what drivers say, in lower case; their exceptions' types are not finer than this
    "refused": ("authentication failed", "wrongpass", "noauth", "invalid username-password", "no password supplied"),
    "full": ("disk is full", "no space left", "oom command not allowed"),
    "locked": ("database is locked",),
    "read-only": ("readonly database", "read-only", "not writable", "permission denied"),
    "none": ("no certificate",),
}
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Readiness(BaseModel):
    """Whether the service can do its work, and what is missing; `reasons` has a word for each that is."""

    status: Literal["ready", "unready"]
    failing: list[str] = []
    degraded: list[str] = []
    reasons: dict[str, str] = {}


class SchemaDiffersError(Exception):
    """The database's schema is not the one that this code needs."""

    def __init__(self, present: str | None, head: str, standing: str) -> None:
        super().__init__(f"the schema has revision {present}, this code needs {head}")
        self.reason = "missing" if standing == "none" else standing


def schema_check(database: Database, service: str) -> Check:
    """Check that all migrations have run."""
    head = head_revision(service)

    async def check() -> None:
        present = await database.schema_revision()
        if present != head:
            raise SchemaDiffersError(present, head, compare_revision(present, service))

    return check


def database_checks(database: Database, service: str) -> dict[str, Check]:
    """Return the checks that no service is ready without."""
    return {"database": database.ping, "schema": schema_check(database, service)}


def health_router(checks: Mapping[str, Check], degradable: Mapping[str, Check]) -> APIRouter:
    """``/health/live``, ``/health/ready`` and ``/metrics``."""
    router = APIRouter(tags=["health"])

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """Return the process runs."""
        return {"status": "live"}

    @router.get("/health/ready", response_model=Readiness, responses={503: {"model": Readiness}})
    async def ready() -> Response:
        """Return the service can do its work; what it can do without for a while is listed as degraded."""
        failing, degraded = await asyncio.gather(_failing(checks), _failing(degradable))
        state = Readiness(
            status="unready" if failing else "ready",
            failing=list(failing),
            degraded=list(degraded),
            reasons=failing | degraded,
        )
        return JSONResponse(state.model_dump(), 503 if failing else 200)

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


async def _failing(checks: Mapping[str, Check]) -> dict[str, str]:
    """Return the names of checks that fail, with the reason of each."""
    names = list(checks)
    results = await asyncio.gather(*(_fault(name, checks[name]) for name in names))
    return {name: reason for name, reason in zip(names, results, strict=True) if reason is not None}


async def _fault(name: str, check: Check) -> str | None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await check()
    except Exception as error:  # noqa: BLE001  (whatever a driver raises, the answer is the same)
        reason = reason_of(error)
        log.warning("readiness.failed", check=name, reason=str(error) or type(error).__name__, code=reason)
        return reason
    return None


def reason_of(error: BaseException) -> str:
    """Return one word for a failed check, fit to be shown to anybody: no address, no name, no text of a driver."""
    own = getattr(error, "reason", None)
    if isinstance(own, str) and own in _OWN:
        return own
    said = str(error).lower()
    for reason, signs in _SIGNS.items():
        if any(sign in said for sign in signs):
            return reason
    return AWAY
