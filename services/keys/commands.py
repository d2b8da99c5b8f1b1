"""What an operator of the keys service runs by hand; each command may be run again at any time."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from undersong.services.keys.authority import reseal
from undersong.services.keys.operators import OPERATOR_FILE, Bootstrap
from undersong.services.keys.settings import KeysSettings
from undersong.services.keys.wiring import Components, assemble, open_database
from undersong.shared.database import Database
from undersong.shared.files import check_writable
from undersong.shared.identity.authority import write_private
from undersong.shared.identity.sealing import Sealer, add_key, drop_old_keys


def bootstrap(settings: KeysSettings, out: Path) -> None:
    """Create the authority, and write the operator's token and one enrolment token for each service into `out`."""

    async def work() -> list[Path]:
        async with _components(settings) as components:
            return await Bootstrap(components.database, components.operators, components.enrolments).run(out)

    for path in asyncio.run(work()):
        sys.stdout.write(f"wrote {path}\n")


def new_operator_token(settings: KeysSettings, out: Path) -> None:
    """Write a new operator token into `out`; all earlier ones end now."""

    async def work() -> str:
        async with _components(settings) as components:
            return await components.operators.create(revoke_others=True)

    check_writable(out / OPERATOR_FILE)  # first: the other tokens end with the new one's creation
    write_private(out / OPERATOR_FILE, asyncio.run(work()).encode() + b"\n")
    sys.stdout.write(f"wrote {out / OPERATOR_FILE}\n")


def new_seal_key(settings: KeysSettings) -> None:
    """Put a new key first, encrypt everything with it, then forget the older keys; a crash in between loses nothing."""
    add_key(settings.seal_key)
    reseal_all(settings)
    drop_old_keys(settings.seal_key)


def reseal_all(settings: KeysSettings) -> None:
    """Encrypt everything with the first key of a key file that something else writes."""

    async def work() -> None:
        async with _database(settings) as database:
            await reseal(database, Sealer(settings.seal_key))

    asyncio.run(work())


@asynccontextmanager
async def _database(settings: KeysSettings) -> AsyncIterator[Database]:
    database = open_database(settings)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def _components(settings: KeysSettings) -> AsyncIterator[Components]:
    async with _database(settings) as database:
        yield await assemble(settings, database)
