"""Databases with a service's schema: migrated once in each run, then copied for every test."""

import atexit
import secrets
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import sql

from undersong.shared.database.migrations import migrate


def prepare(url: str, service: str) -> None:
    """Give the empty database at `url` the newest schema of `service`, as `migrate` does."""
    target = sa.make_url(url)
    if target.get_backend_name() == "sqlite":
        assert target.database is not None
        shutil.copyfile(_sqlite_template(service), target.database)
    else:
        _copy_postgres(target, service)


@cache
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="undersong-templates-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def _sqlite_template(service: str) -> Path:
    file = _folder() / f"{service}.sqlite"
    migrate(f"sqlite:///{file}", service)
    return file


def _copy_postgres(target: sa.URL, service: str) -> None:
    server = target.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    template = _postgres_template(server, service)
    with psycopg.connect(server, autocommit=True) as connection:
        database = sql.Identifier(str(target.database))
        _spare.append(f"spare_{secrets.token_hex(6)}")
        connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(database, sql.Identifier(_spare[-1])))
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(database, sql.Identifier(template)))


_spare: list[str] = []  # names of empty databases that no test uses


def empty_database(connection: psycopg.Connection[Any], name: str) -> None:
    """Make an empty PostgreSQL database, or rename one that was left unused: making one takes 40 ms."""
    database = sql.Identifier(name)
    if _spare:
        connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(_spare.pop()), database))
    else:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(database))


@cache
def _postgres_template(server: str, service: str) -> str:
    name = f"template_{service}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    migrate(sa.make_url(server).set(drivername="postgresql+psycopg", database=name).render_as_string(False), service)
    return name
