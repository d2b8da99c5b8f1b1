import asyncio
import sys
from pathlib import Path

import pytest

from services.registry.tables import Base
from shared.database import Database
from shared.database.migrations import drift, head_revision, migrate


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
    code = f"from shared.database.migrations import migrate; migrate({database_url!r}, 'registry')"
    runs = [await asyncio.create_subprocess_exec(sys.executable, "-c", code) for _ in range(3)]
    assert [await run.wait() for run in runs] == [0, 0, 0]
    assert await asyncio.to_thread(drift, database_url, "registry", Base.metadata) == []


def test_an_unknown_service_has_no_migrations(tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        migrate(f"sqlite:///{tmp_path / 'x.sqlite'}", "nothing")
