"""Nonces of signed requests in SQL, so that a replay is refused by every replica and after every restart."""

import asyncio
from datetime import datetime

from sqlalchemy import delete

from shared.database import Database, Transaction
from shared.errors import Unavailable

_Entry = tuple[str, str, datetime]


class SqlNonces:
    """A `NonceStore` on the service's own database.

    Requests that arrive together share one transaction: while one batch commits, the next one gathers.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[tuple[_Entry, asyncio.Future[bool]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def add(self, principal: str, nonce: str, expires_at: datetime) -> bool:
        """Whether the nonce is new; raises Unavailable when that cannot be known."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(((principal, nonce, expires_at), answer))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await answer

    async def prune(self) -> int:
        """Forget nonces whose signatures are too old to count; how many."""

        async def work(tx: Transaction) -> int:
            table = tx.common.nonces
            result = await tx.session.execute(delete(table).where(table.c.expires_at < await tx.now()))
            return int(getattr(result, "rowcount", 0))

        await self._database.run("nonces.prune", work)
        return 0  # housekeeping is no repair

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                new = await self._insert({entry[:2]: entry[2] for entry, _ in batch})
            except BaseException as error:
                _fail(batch, error)
                if not isinstance(error, Exception):
                    raise
                continue
            for entry, answer in batch:
                if not answer.done():
                    answer.set_result(entry[:2] in new)
                new.discard(entry[:2])  # the same nonce twice in one batch: only the first is new

    async def _insert(self, entries: dict[tuple[str, str], datetime]) -> set[tuple[str, str]]:
        """The entries that were not there before."""
        attempts = 0

        async def work(tx: Transaction) -> set[tuple[str, str]]:
            nonlocal attempts
            attempts += 1
            table = tx.common.nonces
            rows = [{"principal": p, "nonce": n, "expires_at": at} for (p, n), at in sorted(entries.items())]
            statement = tx.insert(table).values(rows).on_conflict_do_nothing()
            result = await tx.session.execute(statement.returning(table.c.principal, table.c.nonce))
            return {(row.principal, row.nonce) for row in result}

        new = await self._database.run("nonces.record", work)
        if attempts > 1 and len(new) < len(entries):
            # A first attempt whose commit was lost in transit looks like a replay of itself; only the client can tell.
            raise Unavailable("the request could not be recorded; sign it afresh and try again", retry_after_s=0.1)
        return new


def _fail(batch: list[tuple[_Entry, "asyncio.Future[bool]"]], error: BaseException) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(error if isinstance(error, Exception) else Unavailable("the service is stopping"))
