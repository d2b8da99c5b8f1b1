"""How the parts of the helper are put together."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from undersong.services.keys.helper.api.rounds import router
from undersong.services.keys.helper.marks import HelperMarks
from undersong.services.keys.helper.peers.parties import Parties
from undersong.services.keys.helper.repository.rounds import HelperRepository
from undersong.services.keys.helper.rounds import HelperRounds
from undersong.services.keys.helper.settings import HelperSettings
from undersong.services.keys.helper.tables import common
from undersong.services.keys.openings import Openings
from undersong.services.keys.restores import RestoreWatch
from undersong.shared.clock import Clock
from undersong.shared.database import Database
from undersong.shared.identity.highwater import HighWater
from undersong.shared.identity.sealing import Sealer
from undersong.shared.queues import Sweeper, background
from undersong.shared.web.app import create_app
from undersong.shared.web.health import database_checks
from undersong.shared.web.trust import ServiceTrust, establish_trust
from undersong.shared.wire.helper import HELPER

PACKAGE = "keys.helper"


def open_database(settings: HelperSettings, clock: Clock | None = None) -> Database:
    """Return the helper's own database."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return Database(settings.database, common, clock=clock)


def assemble(settings: HelperSettings, database: Database, trust: ServiceTrust) -> HelperRounds:
    """Build the use cases."""
    parties = Parties(trust.directory, trust.revocations)
    sealer = Sealer.ensure(settings.seal_key)
    openings = Openings(settings.openings)
    watch = RestoreWatch(database, HighWater(settings.high_water), HelperMarks(openings))
    return HelperRounds(database, watch, openings, sealer, trust.identity, parties, keep=settings.keep)


def install(app: FastAPI, rounds: HelperRounds, trust: ServiceTrust) -> None:
    """Put the parts where the routes find them."""
    app.state.rounds, app.state.verifier = rounds, trust.verifier


def build_app(settings: HelperSettings, clock: Clock | None = None) -> FastAPI:
    """Return the API and its background work."""
    database = open_database(settings, clock)
    return create_app(
        title="Undersong helper",
        service=HELPER,
        description="The second server of rounds that have two: it holds the other half of every update.",
        routers=[router],
        lifespan=_lifespan(settings, database),
        checks=database_checks(database, PACKAGE),
    )


def restored(settings: HelperSettings) -> None:
    """Erase the secrets of every round: a restored copy may have signed other sets than it remembers."""
    sys.stdout.write(f"{asyncio.run(void_rounds(settings))} rounds are void\n")


async def void_rounds(settings: HelperSettings) -> int:
    """Erase the secrets of every round: a restored copy may have signed other sets than it remembers; how many."""
    database = open_database(settings)

    try:
        return await database.run("helper.restored", lambda tx: HelperRepository(tx).void())
    finally:
        await database.close()


def _lifespan(settings: HelperSettings, database: Database) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with establish_trust(settings, HELPER, database) as trust:
            rounds = assemble(settings, database, trust)
            install(app, rounds, trust)
            jobs = {"rounds_expired": rounds.sweep, "nonces": trust.nonces.prune}
            async with background(Sweeper(settings.sweep_s, jobs, housekeeping=True).run()):
                yield
        await database.close()

    return lifespan
