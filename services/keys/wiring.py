"""How the components of the keys service are put together."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import structlog
from fastapi import FastAPI

from undersong.services.keys.api.certificates import router
from undersong.services.keys.api.invitations import router as invitations_router
from undersong.services.keys.api.log import router as log_router
from undersong.services.keys.api.rounds import router as rounds_router
from undersong.services.keys.authority import Authority
from undersong.services.keys.certificates import Certificates, RevokedInRow
from undersong.services.keys.checkpoints import follow
from undersong.services.keys.enrolments import Enrolments
from undersong.services.keys.invitations import Invitations
from undersong.services.keys.ledger_heads import LedgerHeads
from undersong.services.keys.log import Log, backfill
from undersong.services.keys.marks import KeysMarks
from undersong.services.keys.operators import Operators
from undersong.services.keys.restores import RestoreWatch
from undersong.services.keys.rounds import RoundRecords
from undersong.services.keys.settings import KeysSettings
from undersong.services.keys.tables import Base
from undersong.services.keys.witness import Witness
from undersong.services.keys.worker import work
from undersong.shared.clock import Clock, utc_now
from undersong.shared.database import Database
from undersong.shared.errors import Unavailable
from undersong.shared.identity.highwater import HighWater
from undersong.shared.identity.nonces import SqlNonces
from undersong.shared.identity.sealing import Sealer
from undersong.shared.identity.verify import PartyVerifier
from undersong.shared.queues import Streams, background
from undersong.shared.telemetry.metrics import CLOCK_SKEW_SECONDS
from undersong.shared.web.app import create_app
from undersong.shared.web.health import database_checks
from undersong.shared.web.vitals import vitals

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_RECORD_LIMIT = 1 << 21  # bytes of JSON: the record of a round of some 2000 sites


@dataclass(frozen=True)
class Components:
    """The use cases over one database."""

    database: Database
    authority: Authority
    enrolments: Enrolments
    certificates: Certificates
    operators: Operators


def open_database(settings: KeysSettings, clock: Clock | None = None) -> Database:
    """Return the service's database."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return Database(settings.database, Base.common, clock=clock)


async def assemble(settings: KeysSettings, database: Database) -> Components:
    """Open (or, at the very first start, create) the authority, and build the use cases on it."""
    authority = await Authority.open(database, Sealer.ensure(settings.seal_key), settings.federation_name)
    return Components(
        database=database,
        authority=authority,
        enrolments=Enrolments(database, authority, settings.certificate_life, settings.challenge_s),
        certificates=Certificates(database, authority, settings.certificate_life),
        operators=Operators(database),
    )


async def _assemble_patiently(settings: KeysSettings, database: Database) -> Components:
    """Wait for a database that is away: a restart of everything at once must end well whatever comes up first."""
    while True:
        try:
            return await assemble(settings, database)
        except Unavailable as refusal:
            log.warning("start.waiting", reason=refusal.detail)


def build_app(settings: KeysSettings, clock: Clock | None = None) -> FastAPI:
    """Return the API."""
    database = open_database(settings, clock)
    streams = Streams(settings.redis)
    return create_app(
        title="Undersong keys",
        service="keys",
        description="The federation's certificate authority, the witness of its rounds, and its transparency log.",
        routers=[router, invitations_router, rounds_router, log_router],
        json_limit=_RECORD_LIMIT,
        lifespan=_lifespan(settings, database, streams, clock),
        checks=database_checks(database, "keys"),
        degradable={"redis": streams.ping},
    )


def _lifespan(
    settings: KeysSettings, database: Database, streams: Streams, clock: Clock | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        components = await _assemble_patiently(settings, database)
        identity = await components.certificates.own_identity(settings.identity_dir)
        watch = RestoreWatch(database, HighWater(settings.high_water), KeysMarks())
        await watch.start()
        await backfill(database)
        app.state.witness = Witness(watch, Sealer.ensure(settings.seal_key), identity)
        app.state.log = Log(database, identity, watch)
        app.state.invitations = Invitations(database, components.authority, settings.invitations)
        app.state.ledger_heads = LedgerHeads(database, watch)
        app.state.records = RoundRecords(watch, app.state.log, identity)
        app.state.authority, app.state.enrolments = components.authority, components.enrolments
        app.state.certificates, app.state.tokens = components.certificates, components.operators
        app.state.verifier = PartyVerifier(
            components.authority.ca.certificate,
            "keys",
            SqlNonces(database),
            RevokedInRow(),
            clock=clock or utc_now,
            report_skew=CLOCK_SKEW_SECONDS.observe,
        )
        async with background(
            vitals("keys", settings, database), follow(app.state.log, components.authority, identity)
        ):
            yield
        await streams.close()
        await database.close()

    return lifespan


async def run_worker(settings: KeysSettings) -> None:
    """Run the worker until it is told to stop."""
    database, streams = open_database(settings), Streams(settings.redis)
    try:
        components = await assemble(settings, database)
        await work(settings, database, streams, components.enrolments)
    finally:
        await streams.close()
        await database.close()
