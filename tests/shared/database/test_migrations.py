import asyncio
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from tests.simulation.proxy import Proxy, Weather
from undersong.services.registry.tables import Base
from undersong.shared.database import Database
from undersong.shared.database.migrations import drift, head_revision, migrate


async def test_migrations_give_the_tables_of_the_code(database_url: str) -> None:
    database = Database(database_url, Base.common)
    assert await database.schema_revision() is None
    head = await asyncio.to_thread(migrate, database_url, "registry")
    assert head == head_revision("registry") == await database.schema_revision()
    assert await asyncio.to_thread(drift, database_url, "registry", Base.metadata) == []
    assert await asyncio.to_thread(migrate, database_url, "registry") == head
    await database.close()


@pytest.mark.process
async def test_replicas_that_start_together_migrate_once(database_url: str) -> None:
    code = f"from undersong.shared.database.migrations import migrate; migrate({database_url!r}, 'registry')"
    runs = [await asyncio.create_subprocess_exec(sys.executable, "-c", code) for _ in range(3)]
    assert [await run.wait() for run in runs] == [0, 0, 0]
    assert await asyncio.to_thread(drift, database_url, "registry", Base.metadata) == []


async def test_a_database_that_is_away_is_waited_for(postgres_url: str) -> None:
    socket = Path(make_url(postgres_url).query["host"]) / ".s.PGSQL.5432"
    with Proxy(socket) as proxy:
        proxy.set(Weather(partition=True))
        there = make_url(postgres_url).set(host="127.0.0.1", port=proxy.port, query={})
        url = there.render_as_string(hide_password=False)
        with capture_logs() as logs:
            migrating = asyncio.create_task(asyncio.to_thread(migrate, url, "registry"))
            await asyncio.wait([migrating], timeout=2.5)
            assert not migrating.done()
            assert {line["event"] for line in logs} == {"migration.waits"}
            proxy.set(Weather())
            assert await migrating == head_revision("registry")
    assert await asyncio.to_thread(drift, postgres_url, "registry", Base.metadata) == []


async def test_a_wrong_database_is_not_waited_for(postgres_url: str) -> None:
    nowhere = make_url(postgres_url).set(database="nowhere").render_as_string(hide_password=False)
    with pytest.raises(OperationalError, match="does not exist"):
        await asyncio.to_thread(migrate, nowhere, "registry")


def test_what_waiting_does_not_mend_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(OperationalError, match="unable to open"):
        migrate(f"sqlite:///{tmp_path / 'nowhere' / 'x.sqlite'}", "registry")


def test_an_unknown_service_has_no_migrations(tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        migrate(f"sqlite:///{tmp_path / 'x.sqlite'}", "nothing")
