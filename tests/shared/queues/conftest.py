from collections.abc import AsyncIterator

import pytest

from tests.shared.queues.hearing import Base, common
from undersong.shared.database import Database
from undersong.shared.queues import Streams


@pytest.fixture
async def streams(redis_url: str) -> AsyncIterator[Streams]:
    streams = Streams(redis_url)
    yield streams
    await streams.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, common)
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield database
    await database.close()
