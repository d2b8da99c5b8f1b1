"""One effect per Idempotency-Key: the answer is stored in the transaction that makes the effect.

A route takes ``once: IdempotentOnce`` and hands it to its use case, which wraps its transaction's work:
``await database.run("job.submit", once(work))``. The same key with the same request gives the stored answer,
whichever process crashed; with another request it is refused. Requests that arrive together queue on the row, so
there is no state "in progress" that a crash could leave behind. Without the header, the work simply runs.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Header, Request
from pydantic import TypeAdapter
from sqlalchemy import Table, delete, select, update

from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Conflict
from undersong.shared.web.answers import Answered
from undersong.shared.web.body import arrived_digest
from undersong.shared.web.observe import route_template

T = TypeVar("T")
_KEY: Final = r"^[!-~]{1,128}$"
_KEPT: Final = timedelta(days=30)
_CREATED: Final = 200


class IdempotencyMismatch(Conflict):
    """This Idempotency-Key was used for another request."""


@dataclass(frozen=True)
class Once:
    """Makes a transaction's work happen once per (key, principal, route)."""

    key: str | None
    principal: str = ""
    route: str = ""
    digest: str = ""
    status: int = _CREATED

    def __call__(self, work: Callable[[Transaction], Awaitable[T]]) -> Callable[[Transaction], Awaitable[T]]:
        """Do the work, behind the check; its result (a pydantic model or plain JSON values) becomes the stored answer.

        Raises Answered, which the edge turns into the stored answer, or IdempotencyMismatch.
        """
        if self.key is None:
            return work

        async def guarded(tx: Transaction) -> T:
            await self._claim(tx)
            result = await work(tx)
            await self._store(tx, result)
            return result

        return guarded

    async def _claim(self, tx: Transaction) -> None:
        table = tx.common.idempotency
        row = {
            "key": self.key,
            "principal": self.principal,
            "route": self.route,
            "request_digest": self.digest,
            "created_at": await tx.now(),
        }
        # On PostgreSQL this waits for a concurrent transaction with the same key to end.
        claim = tx.insert(table).values(row).on_conflict_do_nothing().returning(table.c.key)
        if (await tx.session.execute(claim)).first() is not None:
            return
        columns = (table.c.request_digest, table.c.status, table.c.body)
        found = (await tx.session.execute(select(*columns).where(*self._is_mine(table)))).one()
        if found.request_digest != self.digest:
            raise IdempotencyMismatch("this Idempotency-Key was used for a request with other content")
        raise Answered(found.status, found.body)

    async def _store(self, tx: Transaction, result: object) -> None:
        table = tx.common.idempotency
        body = TypeAdapter(type(result)).dump_json(result, by_alias=True)
        answer = {"status": self.status, "body": body}
        await tx.session.execute(update(table).where(*self._is_mine(table)).values(answer))

    def _is_mine(self, table: Table) -> tuple[Any, ...]:
        return (table.c.key == self.key, table.c.principal == self.principal, table.c.route == self.route)


async def once(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(pattern=_KEY, description="Made by the caller and kept through its own retries; printable ASCII."),
    ] = None,
) -> Once:
    """Return the dependency; it must come after the one that names the caller, whose id it reads."""
    if idempotency_key is None:
        return Once(None)
    return Once(
        key=idempotency_key,
        principal=principal_of(request),
        route=f"{request.method} {route_template(request.scope)}",
        digest=await _digest(request),
        status=_status(request),
    )


IdempotentOnce = Annotated[Once, Depends(once)]


def principal_of(request: Request) -> str:
    """Return who asks: the signer's name, or the hash of the bearer token."""
    signer = getattr(request.state, "party", None)
    if signer is not None:
        return str(signer.subject.uri)
    known: str | None = getattr(request.state, "principal", None)
    if known is not None:
        return known
    return "token:" + hashlib.sha256(request.headers.get("authorization", "").encode()).hexdigest()


async def _digest(request: Request) -> str:
    """Return what the request asks for, by digest: the body counts as it came, not as it was announced."""
    parts = (request.method, request.url.path, request.url.query, await arrived_digest(request) or "")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _status(request: Request) -> int:
    context = request.scope.get("fastapi", {}).get("effective_route_context") or request.scope.get("route")
    return getattr(context, "status_code", None) or _CREATED


async def prune_idempotency(database: Database) -> int:
    """Forget answers older than 30 days; a job for the sweeper."""

    async def work(tx: Transaction) -> None:
        table = tx.common.idempotency
        await tx.session.execute(delete(table).where(table.c.created_at < await tx.now() - _KEPT))

    await database.run("idempotency.prune", work)
    return 0  # housekeeping is no repair
