"""Nonces in SQL: each counts once, in parallel too, and the old ones go."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase

from undersong.shared.clock import utc_now
from undersong.shared.database import CommonTables, Database, Transaction, new_metadata
from undersong.shared.errors import Unavailable
from undersong.shared.identity.nonces import SqlNonces


class Base(DeclarativeBase):
    metadata = new_metadata()
    common = CommonTables(metadata)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, Base.common)
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield database
    await database.close()


async def test_a_nonce_counts_once_also_after_a_restart(database: Database) -> None:
    expires_at = utc_now() + timedelta(minutes=10)
    assert await SqlNonces(database).add("site", "n1", expires_at)
    assert not await SqlNonces(database).add("site", "n1", expires_at)
    assert await SqlNonces(database).add("other", "n1", expires_at)


async def test_of_many_at_once_one_wins(database: Database) -> None:
    expires_at = utc_now() + timedelta(minutes=10)
    replicas = [SqlNonces(database), SqlNonces(database)]
    answers = await asyncio.gather(*(replicas[i % 2].add("site", f"n{i // 10}", expires_at) for i in range(50)))
    assert sum(answers) == 5


async def test_a_replay_in_a_batch_that_was_tried_twice_costs_only_its_sender(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is new is told so; who may have been recorded by the first try must sign afresh, and no other."""
    database = Database(sqlite_url, Base.common)
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    nonces, expires_at, once = SqlNonces(database), utc_now() + timedelta(minutes=10), database._write_once
    assert await nonces.add("site", "old", expires_at)
    tries = 0

    async def stumbles(work: Callable[[Transaction], Awaitable[object]]) -> object:
        nonlocal tries
        tries += 1

        async def busy(tx: Transaction) -> object:
            await work(tx)
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise OperationalError("INSERT", {}, error)

        return await once(busy if tries == 1 else work)

    monkeypatch.setattr(database, "_write_once", stumbles)
    asked = ["old", "new", "twin", "twin", "other"]
    found = await asyncio.gather(*(nonces.add("site", each, expires_at) for each in asked), return_exceptions=True)
    await database.close()
    assert tries == 2
    assert isinstance(found[0], Unavailable)
    assert found[1:] == [True, True, False, True]


async def test_old_nonces_are_forgotten(database: Database) -> None:
    nonces = SqlNonces(database)
    await nonces.add("site", "old", utc_now() - timedelta(seconds=1))
    await nonces.add("site", "new", utc_now() + timedelta(minutes=10))
    await nonces.prune()
    table = Base.common.nonces
    kept = await database.read("t", lambda tx: tx.session.scalar(select(func.count()).select_from(table)))
    assert kept == 1
    assert not await nonces.add("site", "new", utc_now() + timedelta(minutes=10))
