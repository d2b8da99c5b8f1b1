"""The coordinator under test, on each database."""

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    """Tests are no packages, so their helpers are loaded by path, once."""
    full = f"coordinator_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


helpers = _load("world")


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[object]:
    """The whole coordinator on SQLite, then on PostgreSQL."""
    async with helpers.make_world(database_url, redis_url, tmp_path) as made:
        yield made


@pytest.fixture
async def small_world(sqlite_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[object]:
    """The same on SQLite only, for what no database can change."""
    async with helpers.make_world(sqlite_url, redis_url, tmp_path) as made:
        yield made
