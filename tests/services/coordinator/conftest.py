"""The coordinator under test, on each database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.services.coordinator.world import World, make_world


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """The whole coordinator on SQLite, then on PostgreSQL."""
    async with make_world(database_url, redis_url, tmp_path) as made:
        yield made


@pytest.fixture
async def small_world(sqlite_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """The same on SQLite only, for what no database can change."""
    async with make_world(sqlite_url, redis_url, tmp_path) as made:
        yield made
