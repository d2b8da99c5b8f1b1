"""The one way to the tables: named transactions that are run again when the database asks for it."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import structlog
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.pool import QueuePool

from undersong.shared.clock import Clock, monotonic
from undersong.shared.database.common import CommonTables
from undersong.shared.database.engine import open_engine
from undersong.shared.database.faults import disk_full, passing_fault, standby_fault
from undersong.shared.database.fresh import FreshEvents
from undersong.shared.database.sqlite import READ_ONLY
from undersong.shared.database.transaction import Transaction
from undersong.shared.errors import Unavailable
from undersong.shared.faults import point
from undersong.shared.telemetry.metrics import POOL_IN_USE, POOL_WAITING, TX_RETRIES, TX_SECONDS

T = TypeVar("T")
Work = Callable[[Transaction], Awaitable[T]]

log = structlog.get_logger(__name__)

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_GIVE_UP_AFTER_S = 10.0
_RETRY_AFTER_S = 2.0
_FULL_RETRY_S = 10.0


class Database:
    """One service's database.

    `clock` is for tests; without it `Transaction.now` asks the database. `committed` tells the relay of the same
    process which events have just been committed.
    """

    def __init__(self, url: str, common: CommonTables, *, clock: Clock | None = None, pool_size: int = 5) -> None:
        self.common = common
        self.committed = FreshEvents()
        self.engine: AsyncEngine = open_engine(url, pool_size=pool_size)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._clock = clock
        self._writer = asyncio.Lock()
        self._open = 0  # transactions that were begun and have not ended, whether or not they have a connection yet
        self._write_session = async_sessionmaker(self.engine, expire_on_commit=False)
        self._read_session = async_sessionmaker(_read_only(self.engine), expire_on_commit=False, autoflush=False)
        POOL_IN_USE.set_function(self._in_use)
        POOL_WAITING.set_function(lambda: max(0, self._open - self._in_use()))

    async def run(self, name: str, work: Work[T]) -> T:
        """Run `work` in one transaction and commit it; the whole of `work` runs again after a passing fault.

        Passing: serialisation failure, deadlock, lost connection, server restart, SQLite busy. A commit whose answer
        was lost runs again too, so `work` must be safe to repeat. Raises Unavailable after 10 s, and at once when the
        disk is full; what `work` raises rolls back and comes through.
        """
        with TX_SECONDS.labels(name).time():
            return await self._with_retries(name, lambda: self._write_once(work), writes=True)

    async def read(self, name: str, work: Work[T]) -> T:
        """Run `work` on one consistent snapshot, read only, with the same retries as `run`."""
        return await self._with_retries(name, lambda: self._read_once(work))

    async def ping(self) -> None:
        """Ask the database for one row; raises whatever goes wrong. No retries: this is for readiness checks."""
        async with self._read_session() as session:
            await session.execute(text("SELECT 1"))

    async def schema_revision(self) -> str | None:
        """Return the schema's revision; None when no migration has run."""
        async with self.engine.connect() as connection:
            return await connection.run_sync(_current_revision)

    async def size_bytes(self) -> int:
        """Return how much room the database takes."""
        if self.is_sqlite:
            file = Path(self.engine.url.database or "")
            parts = [file.with_name(file.name + suffix) for suffix in ("", "-wal")]
            return sum(part.stat().st_size for part in parts if part.exists())
        async with self._read_session() as session:
            return int(await session.scalar(text("SELECT pg_database_size(current_database())")) or 0)

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()

    def _in_use(self) -> int:
        pool = self.engine.pool
        return pool.checkedout() if isinstance(pool, QueuePool) else 0

    async def _write_once(self, work: Work[T]) -> T:
        async with self._turn_to_write(), self._write_session() as session:
            tx = Transaction(session, self.common, self._clock)
            async with session.begin():
                result = await work(tx)
                point("database.committing")
        point("database.committed")
        if tx.events:
            self.committed.put(tx.events)
        tx.finish()
        return result

    @asynccontextmanager
    async def _turn_to_write(self) -> AsyncIterator[None]:
        """On SQLite, which has one writer, queue here: fair, and woken at once, where its busy handler only sleeps."""
        if not self.is_sqlite:
            yield
            return
        try:
            async with asyncio.timeout(_GIVE_UP_AFTER_S):
                await self._writer.acquire()
        except TimeoutError as error:
            raise Unavailable("The database is busy.", retry_after_s=_RETRY_AFTER_S) from error
        try:
            yield
        finally:
            self._writer.release()

    async def _read_once(self, work: Work[T]) -> T:
        async with self._read_session() as session, session.begin():
            return await work(Transaction(session, self.common, self._clock))

    async def _with_retries(self, name: str, attempt: Callable[[], Awaitable[T]], *, writes: bool = False) -> T:
        give_up_at = monotonic() + _GIVE_UP_AFTER_S
        pause_s = _FIRST_PAUSE_S
        while True:
            self._open += 1
            try:
                return await attempt()
            except Exception as error:
                fault = passing_fault(error) or (standby_fault(error) if writes else None)
                if fault is None:
                    if disk_full(error):
                        log.error("transaction.disk_full", transaction=name)  # noqa: TRY400  (no fault of the code)
                        raise Unavailable("The database's disk is full.", retry_after_s=_FULL_RETRY_S) from error
                    raise
                TX_RETRIES.labels(fault).inc()
                if monotonic() + pause_s > give_up_at:
                    log.error("transaction.gave_up", transaction=name, fault=fault, error=str(error))  # noqa: TRY400
                    raise Unavailable("The database is away.", retry_after_s=_RETRY_AFTER_S) from error
                log.info("transaction.retried", transaction=name, fault=fault)
            finally:
                self._open -= 1
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  (jitter is no secret)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def _read_only(engine: AsyncEngine) -> AsyncEngine:
    """Return the same pool, with transactions that cannot write and see one snapshot."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{READ_ONLY: True})
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
