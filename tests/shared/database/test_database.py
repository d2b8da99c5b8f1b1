import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.effort import examples
from undersong.shared.database import CommonTables, Database, JsonDocument, Transaction, UtcDateTime, new_metadata, page
from undersong.shared.errors import Conflict, Unavailable


class Base(DeclarativeBase):
    metadata = new_metadata()


common = CommonTables(Base.metadata)


class Counter(Base):
    __tablename__ = "counters"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(default=0)
    seen_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    notes: Mapped[Any] = mapped_column(JsonDocument, nullable=True)


FIRST = datetime.fromisoformat("0001-01-03")  # naive: hypothesis adds the zone
LAST = datetime.fromisoformat("9999-12-29")


async def fresh(url: str) -> Database:
    database = Database(url, common)
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    return database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await fresh(database_url)
    yield database
    await database.close()


async def add(tx: Transaction, name: str, value: int = 0) -> None:
    tx.session.add(Counter(name=name, value=value))


async def value_of(database: Database, name: str) -> int | None:
    async def work(tx: Transaction) -> int | None:
        return await tx.session.scalar(select(Counter.value).where(Counter.name == name))

    return await database.read("counter.get", work)


async def increase(tx: Transaction) -> int:
    statement = update(Counter).where(Counter.name == "a").values(value=Counter.value + 1).returning(Counter.value)
    return (await tx.session.execute(statement)).scalar_one()


async def test_work_is_committed_once_and_its_events_with_it(database: Database) -> None:
    committed = []

    async def work(tx: Transaction) -> str:
        await add(tx, "a", 7)
        await tx.emit("topic", "thing.done", "a")
        tx.after_commit(lambda: committed.append("a"))
        assert committed == []
        return "answer"

    assert await database.run("test", work) == "answer"
    assert await value_of(database, "a") == 7
    assert committed == ["a"]
    assert [(event.topic, event.type, event.subject) for event in database.committed.take()] == [
        ("topic", "thing.done", "a")
    ]


async def test_a_refusal_rolls_everything_back(database: Database) -> None:
    async def work(tx: Transaction) -> None:
        await add(tx, "a")
        await tx.emit("topic", "thing.done", "a")
        tx.after_commit(lambda: pytest.fail("called"))
        await tx.session.flush()
        raise Conflict("no")

    with pytest.raises(Conflict):
        await database.run("test", work)
    assert await value_of(database, "a") is None
    assert not database.committed.is_set()

    async def outbox(tx: Transaction) -> list[Any]:
        return list((await tx.session.execute(select(common.outbox))).all())

    assert await database.read("outbox", outbox) == []


async def test_no_increment_is_lost_among_concurrent_writers(database_url: str) -> None:
    """Two processes' worth of engines, one row."""
    first, second = await fresh(database_url), Database(database_url, common)
    await first.run("add", lambda tx: add(tx, "a"))
    got = await asyncio.gather(*[db.run("increase", increase) for db in (first, second) for _ in range(20)])
    assert sorted(got) == list(range(1, 41))
    assert await value_of(second, "a") == 40
    await first.close()
    await second.close()


async def test_a_serialisation_failure_runs_the_whole_work_again(postgres_url: str) -> None:
    database = await fresh(postgres_url)
    await database.run("add", lambda tx: add(tx, "a"))
    runs = 0

    async def work(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await tx.session.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
        await tx.session.scalar(select(Counter.value))
        if runs == 1:
            await database.run("other", increase)
        await increase(tx)

    await database.run("test", work)
    assert runs == 2
    assert await value_of(database, "a") == 2
    await database.close()


async def test_a_lost_connection_is_mended(postgres_url: str) -> None:
    database = await fresh(postgres_url)
    runs = 0

    async def work(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await add(tx, "a")
        await tx.session.flush()
        if runs == 1:
            pid = await tx.session.scalar(text("SELECT pg_backend_pid()"))
            with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as killer:
                killer.execute("SELECT pg_terminate_backend(%s)", [pid])

    await database.run("test", work)
    assert runs == 2
    assert await value_of(database, "a") == 0
    await database.close()


async def test_a_database_that_is_away_becomes_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undersong.shared.database.database._GIVE_UP_AFTER_S", 0.3)
    database = Database("postgresql+psycopg://nobody@127.0.0.1:1/none", common)
    with pytest.raises(Unavailable) as refusal:
        await database.run("test", lambda tx: add(tx, "a"))
    assert refusal.value.retry_after_s is not None
    await database.close()


async def test_a_full_disk_is_said_at_once_and_passes(sqlite_url: str) -> None:
    database = Database(sqlite_url, common, pool_size=1)
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async def limit(tx: Transaction, pages: int) -> None:
        await tx.session.execute(text(f"PRAGMA max_page_count = {pages}"))

    await database.run("limit", lambda tx: limit(tx, 1))
    with pytest.raises(Unavailable, match="disk is full"):
        await database.run("add", lambda tx: add(tx, "a" * 100_000))
    await database.run("limit", lambda tx: limit(tx, 1_000_000))
    await database.run("add", lambda tx: add(tx, "a"))
    assert await value_of(database, "a") == 0
    assert await value_of(database, "a" * 100_000) is None
    await database.close()


async def test_sqlite_waits_for_another_process_without_blocking_the_loop(sqlite_url: str) -> None:
    database = await fresh(sqlite_url)
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite+aiosqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(database.run("test", lambda tx: add(tx, "a")))
    await asyncio.sleep(0.2)
    assert not writing.done()
    assert await value_of(database, "a") is None  # reading goes on
    other.execute("COMMIT")
    await asyncio.wait_for(writing, 30)
    other.close()
    assert await value_of(database, "a") == 0
    await database.close()


async def test_sqlite_makes_every_letter_small(sqlite_url: str) -> None:
    """So that a filter by a part of a name takes either case beyond ASCII too, as PostgreSQL does."""
    database = await fresh(sqlite_url)

    async def work(tx: Transaction) -> list[str]:
        tx.session.add(Counter(name="MÜNCHEN"))
        await tx.session.flush()
        return list(await tx.session.scalars(select(Counter.name).where(Counter.name.icontains("münch"))))

    assert await database.run("lower", work) == ["MÜNCHEN"]
    await database.close()


async def test_a_cancelled_writer_frees_the_way(database: Database) -> None:
    started = asyncio.Event()

    async def slow(tx: Transaction) -> None:
        await add(tx, "slow")
        await tx.session.flush()
        started.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(database.run("slow", slow))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(database.run("add", lambda tx: add(tx, "a")), 30)  # the other would hold it for a minute
    assert await value_of(database, "slow") is None


async def test_a_nested_writer_is_refused_and_does_not_hang(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undersong.shared.database.database._GIVE_UP_AFTER_S", 0.2)
    database = await fresh(sqlite_url)

    async def outer(tx: Transaction) -> None:
        await database.run("inner", increase)

    with pytest.raises(Unavailable):
        await database.run("outer", outer)
    await database.close()


async def test_a_reader_cannot_write(postgres_url: str) -> None:
    database = await fresh(postgres_url)

    async def work(tx: Transaction) -> None:
        await tx.session.execute(insert(Counter).values(name="a", value=1))

    with pytest.raises(DBAPIError, match="read-only"):
        await database.read("test", work)
    await database.close()


async def test_the_same_nonce_twice_is_an_integrity_error(database: Database) -> None:
    async def work(tx: Transaction) -> None:
        expires_at = await tx.now() + timedelta(minutes=5)
        await tx.session.execute(insert(common.nonces).values(principal="p", nonce="n", expires_at=expires_at))

    await database.run("test", work)
    with pytest.raises(IntegrityError):
        await database.run("test", work)


async def test_the_database_clock_is_aware_and_stands_still_in_a_transaction(database: Database) -> None:
    async def work(tx: Transaction) -> tuple[datetime, datetime]:
        return await tx.now(), await tx.now()

    first, second = await database.run("test", work)
    assert first == second
    assert abs(first - datetime.now(UTC)) < timedelta(seconds=5)


@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moment=st.datetimes(min_value=FIRST, max_value=LAST, timezones=st.just(timezone(timedelta(hours=-9)))),
    notes=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
)
def test_instants_and_documents_come_back_as_they_went(sqlite_url: str, moment: datetime, notes: Any) -> None:
    async def go() -> None:
        database = await fresh(sqlite_url)

        async def write(tx: Transaction) -> None:
            await tx.session.merge(Counter(name="a", value=0, seen_at=moment, notes=notes))

        async def read(tx: Transaction) -> Counter:
            return (await tx.session.scalars(select(Counter).where(Counter.seen_at == moment))).one()

        await database.run("write", write)
        row = await database.read("read", read)
        assert row.seen_at == moment
        assert row.seen_at.tzinfo is UTC
        assert row.notes == notes
        await database.close()

    asyncio.run(go())


async def test_documents_and_instants_on_both(database: Database) -> None:
    moment = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)

    async def write(tx: Transaction) -> None:
        tx.session.add(Counter(name="a", value=0, seen_at=moment, notes={"ü": [1, None, 1.5]}))

    async def read(tx: Transaction) -> Counter:
        return (await tx.session.scalars(select(Counter))).one()

    await database.run("write", write)
    row = await database.read("read", read)
    assert (row.seen_at, row.notes) == (moment, {"ü": [1, None, 1.5]})


@pytest.mark.parametrize("bad", [{"seen_at": FIRST}, {"notes": float("nan")}])
async def test_naive_instants_and_nan_are_refused(database: Database, bad: dict[str, Any]) -> None:
    async def work(tx: Transaction) -> None:
        tx.session.add(Counter(name="a", value=0, **bad))

    with pytest.raises((StatementError, ValueError)):
        await database.run("test", work)


@pytest.mark.parametrize("url", ["sqlite+aiosqlite://", "mysql://x/y", "sqlite+aiosqlite:///:memory:"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Database(url, common)


@pytest.mark.parametrize("descending", [False, True])
async def test_pages_cover_everything_once(database: Database, descending: bool) -> None:
    names = [f"c{number:02}" for number in range(7)]

    async def write(tx: Transaction) -> None:
        tx.session.add_all([Counter(name=name, value=0) for name in names])

    await database.run("write", write)
    seen: list[str] = []
    after = None
    while True:

        async def read(tx: Transaction, after: str | None = after) -> Any:
            return await page(tx.session, select(Counter), Counter.name, 3, after, descending=descending)

        got = await database.read("read", read)
        seen += got.map(lambda row: row.name).items
        after = got.next
        if after is None:
            break
    assert seen == sorted(names, reverse=descending)
