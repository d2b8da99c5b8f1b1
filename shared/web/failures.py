"""What ends a command of a service and is the operator's to correct, as one line: paths, the database, the key file."""

from pathlib import Path

import httpx
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from undersong.shared.errors import Refusal
from undersong.shared.web.settings import EdgeSettings, ServiceSettings

_NO_SCHEMA = ("no such table", "no such column", "UndefinedTable", "UndefinedColumn")


def explained(error: Exception, settings: EdgeSettings, migrate: str) -> str | None:
    """Return what happened and what to do, in one line; None for what is a mistake of ours.

    `migrate` is the command that brings the schema up to date.
    """
    prefix = str(settings.model_config.get("env_prefix", ""))
    match error:
        case DBAPIError():
            return _about_database(error, prefix, migrate)
        case CommandError():
            return f"the database's schema is not of this release: {error}; install the release that made it"
        case Refusal() if not isinstance(settings, ServiceSettings):
            return error.detail
        case Refusal():
            return f"{error.detail} Look at {prefix}DATABASE_URL and at the service's log."
        case httpx.TransportError():
            return f"another service cannot be reached ({type(error).__name__}); look at {prefix}KEYS_URL"
        case OSError(filename=str() | Path()):
            return f"{error.filename}: {error.strerror}; name another path, or correct the owner and rights of this one"
        case ValueError() if isinstance(settings, ServiceSettings) and str(error).startswith(str(settings.seal_key)):
            return f"{error}; correct {prefix}SEAL_KEY_FILE or restore the file from its backup"
    return None


def _about_database(error: DBAPIError, prefix: str, migrate: str) -> str:
    cause = error.orig or error
    said = " ".join(str(cause).split())[:300]
    if any(sign in said or sign in type(cause).__name__ for sign in _NO_SCHEMA):
        return f"the database has no schema, or an older one: run `{migrate}`, or set {prefix}MIGRATE_ON_START=true"
    return f"the database cannot be used: {said}; look at {prefix}DATABASE_URL"
