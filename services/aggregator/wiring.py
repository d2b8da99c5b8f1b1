"""How the parts of the aggregator are put together."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from fastapi import FastAPI

from services.aggregator.api import router
from services.aggregator.foreman import Foreman
from services.aggregator.publication import Publication
from services.aggregator.registry import Registry
from services.aggregator.repository import WORK_TOPIC
from services.aggregator.rounds import Rounds
from services.aggregator.settings import AggregatorSettings
from services.aggregator.tables import common
from services.aggregator.updates import Updates
from services.aggregator.worker import Hands, new_worker_id, work
from shared.blobs import BlobStore
from shared.clock import Clock
from shared.database import Database
from shared.identity.sealing import Sealer
from shared.queues import Bell, Relay, Streams, background
from shared.web.access import IntrospectionClient, TokenDirectory
from shared.web.app import create_app
from shared.web.health import database_checks
from shared.web.standing import Standing, standing, traced_client


@dataclass(frozen=True)
class Parts:
    """The use cases over one database and one store."""

    database: Database
    blobs: BlobStore
    sealer: Sealer
    rounds: Rounds
    updates: Updates


def open_database(settings: AggregatorSettings, clock: Clock | None = None) -> Database:
    """The service's database."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return Database(settings.database, common, clock=clock)


def assemble(settings: AggregatorSettings, database: Database, stand: Standing) -> Parts:
    """Build the use cases."""
    blobs, sealer = BlobStore.open(settings.blobs), Sealer.ensure(settings.seal_key)
    return Parts(
        database=database,
        blobs=blobs,
        sealer=sealer,
        rounds=Rounds(database, blobs, stand.identity, sealer, finish=timedelta(seconds=settings.finish_s)),
        updates=Updates(database, blobs, stand.identity, max_update_bytes=settings.max_update_bytes),
    )


def employ(settings: AggregatorSettings, parts: Parts, stand: Standing, bell: Bell) -> tuple[Hands, Foreman]:
    """The worker's parts."""
    registry = Registry(stand.http, stand.signing("registry"), settings.registry_url, parts.blobs)
    publication = Publication(parts.database, parts.blobs, registry, stand.identity, parts.rounds)
    foreman = Foreman(
        parts.database,
        parts.blobs,
        parts.rounds,
        publication,
        parts.sealer,
        bell,
        worker_id=new_worker_id(),
        lease_s=settings.worker_lease_s,
    )
    return Hands(parts.database, parts.blobs, parts.rounds, foreman), foreman


def install(app: FastAPI, parts: Parts, stand: Standing, tokens: TokenDirectory) -> None:
    """Put the parts where the routes find them."""
    app.state.rounds, app.state.updates = parts.rounds, parts.updates
    app.state.directory, app.state.verifier = stand.directory, stand.verifier
    app.state.tokens = tokens


def build_app(settings: AggregatorSettings, clock: Clock | None = None) -> FastAPI:
    """The API."""
    database, streams = open_database(settings, clock), Streams(settings.redis)
    return create_app(
        title="Undersong aggregator",
        service="aggregator",
        description="Takes sites' updates, opens only their sum, and publishes what comes of it.",
        routers=[router],
        lifespan=_lifespan(settings, database, streams),
        checks=database_checks(database, "aggregator"),
        degradable={"redis": streams.ping},
    )


def _lifespan(
    settings: AggregatorSettings, database: Database, streams: Streams
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with standing(settings, "aggregator", database) as stand, traced_client() as coordinator:
            coordinator.auth = stand.signing("coordinator")
            tokens = IntrospectionClient(coordinator, settings.coordinator_url)
            install(app, assemble(settings, database, stand), stand, tokens)
            async with background(Relay(database, streams).run()):
                yield
        await streams.close()
        await database.close()

    return lifespan


async def run_worker(settings: AggregatorSettings) -> None:
    """The worker's whole life."""
    database, streams = open_database(settings), Streams(settings.redis)
    bell = Bell(streams, [WORK_TOPIC])
    try:
        async with standing(settings, "aggregator", database) as stand:
            hands, foreman = employ(settings, assemble(settings, database, stand), stand, bell)
            keep = timedelta(seconds=settings.keep_blobs_s)
            prune = {"nonces": stand.nonces.prune}
            await work(database, streams, hands, foreman, bell, prune=prune, sweep_s=settings.sweep_s, keep=keep)
    finally:
        await streams.close()
        await database.close()
