"""How the parts of a custodian are put together."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from undersong.services.keys.custodian.api.rounds import router
from undersong.services.keys.custodian.marks import CustodianMarks
from undersong.services.keys.custodian.repository.rounds import CustodianRepository
from undersong.services.keys.custodian.rounds import CustodianRounds
from undersong.services.keys.custodian.settings import CustodianSettings
from undersong.services.keys.custodian.tables import common
from undersong.services.keys.openings import Openings
from undersong.services.keys.restores import RestoreWatch
from undersong.services.keys.signatories import Signatories
from undersong.shared.clock import Clock
from undersong.shared.database import Database
from undersong.shared.identity.highwater import HighWater
from undersong.shared.identity.sealing import Sealer
from undersong.shared.queues import Sweeper, background
from undersong.shared.web.app import create_app
from undersong.shared.web.health import database_checks
from undersong.shared.web.trust import ServiceTrust, establish_trust

PACKAGE = "keys.custodian"


def open_database(settings: CustodianSettings, clock: Clock | None = None) -> Database:
    """Return the custodian's own database."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return Database(settings.database, common, clock=clock)


def assemble(settings: CustodianSettings, database: Database, trust: ServiceTrust) -> CustodianRounds:
    """Build the use cases."""
    signatories = Signatories(trust.directory, trust.revocations)
    sealer, openings = Sealer.ensure(settings.seal_key), Openings(settings.openings)
    watch = RestoreWatch(database, HighWater(settings.high_water), CustodianMarks(openings))
    return CustodianRounds(
        database, watch, openings, sealer, trust.identity, signatories, index=settings.index, keep=settings.keep
    )


def install(app: FastAPI, rounds: CustodianRounds, trust: ServiceTrust) -> None:
    """Put the parts where the routes find them."""
    app.state.rounds, app.state.verifier = rounds, trust.verifier


def build_app(settings: CustodianSettings, clock: Clock | None = None) -> FastAPI:
    """Return the API and its background work."""
    database = open_database(settings, clock)
    return create_app(
        title="Undersong custodian",
        service=settings.service,
        description="One of several holders of shares of every site's key, who together open only sums (experimental).",
        routers=[router],
        lifespan=_lifespan(settings, database),
        checks=database_checks(database, PACKAGE),
    )


def restored(settings: CustodianSettings) -> None:
    """Erase the secrets of every round: a restored copy may have given other sums than it remembers."""
    sys.stdout.write(f"{asyncio.run(void_rounds(settings))} rounds are void\n")


async def void_rounds(settings: CustodianSettings) -> int:
    """Erase the secrets of every round and return how many had some."""
    database = open_database(settings)
    try:
        return await database.run("custodian.restored", lambda tx: CustodianRepository(tx).void())
    finally:
        await database.close()


def _lifespan(
    settings: CustodianSettings, database: Database
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with establish_trust(settings, settings.service, database) as trust:
            rounds = assemble(settings, database, trust)
            await rounds.start()
            install(app, rounds, trust)
            jobs = {"rounds_expired": rounds.sweep, "nonces": trust.nonces.prune}
            async with background(Sweeper(settings.sweep_s, jobs, housekeeping=True).run()):
                yield
        await database.close()

    return lifespan
