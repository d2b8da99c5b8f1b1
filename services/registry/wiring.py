"""How the parts of the registry are put together."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from undersong.services.registry.api.datasheets import router as datasheets_router
from undersong.services.registry.api.models import router
from undersong.services.registry.contents import Contents
from undersong.services.registry.datasheets import DatasheetStore
from undersong.services.registry.models import Models
from undersong.services.registry.publishers import Publishers
from undersong.services.registry.settings import RegistrySettings
from undersong.services.registry.tables import Base
from undersong.services.registry.versions import Versions
from undersong.services.registry.worker import work
from undersong.shared.blobs import BlobStore
from undersong.shared.clock import Clock
from undersong.shared.database import Database
from undersong.shared.web.access import IntrospectionClient, TokenDirectory
from undersong.shared.web.app import create_app
from undersong.shared.web.health import database_checks
from undersong.shared.web.trust import ServiceTrust, establish_trust, traced_client

EstablishTrust = Callable[[RegistrySettings, Database], AbstractAsyncContextManager[ServiceTrust]]


def open_database(settings: RegistrySettings, clock: Clock | None = None) -> Database:
    """Return the service's database."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return Database(settings.database, Base.common, clock=clock)


def open_contents(settings: RegistrySettings, database: Database) -> Contents:
    """Return the service's model files."""
    return Contents(database, BlobStore.open(settings.blobs, settings.bucket), limit=settings.max_content_bytes)


def enrolled(settings: RegistrySettings, database: Database) -> AbstractAsyncContextManager[ServiceTrust]:
    """Establish trust by a certificate from the keys service."""
    return establish_trust(settings, "registry", database)


def build_app(
    settings: RegistrySettings, *, establish: EstablishTrust = enrolled, tokens: TokenDirectory | None = None
) -> FastAPI:
    """Return the API.

    `establish` and `tokens` are replaced in tests, where there is no keys service and no coordinator.
    """
    database = open_database(settings)
    store = BlobStore.open(settings.blobs, settings.bucket)
    return create_app(
        title="Undersong registry",
        service="registry",
        description="Models and their immutable, signed versions, with lineage, aliases and content.",
        routers=[router, datasheets_router],
        lifespan=_lifespan(settings, database, store, establish, tokens),
        checks={**database_checks(database, "registry"), "blobs": store.check},
        degradable={
            "contents": Contents(database, store, limit=settings.max_content_bytes).check,
            "conditional_writes": store.probe,
        },
    )


def _lifespan(
    settings: RegistrySettings,
    database: Database,
    store: BlobStore,
    establish: EstablishTrust,
    tokens: TokenDirectory | None,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with establish(settings, database) as trust, traced_client(settings) as http:
                http.auth = trust.signing("coordinator")
                contents = Contents(database, store, limit=settings.max_content_bytes)
                publishers = Publishers(trust.directory, trust.revocations.revoked)
                app.state.contents = contents
                app.state.models = Models(database)
                app.state.versions = Versions(database, contents, publishers, trust.identity)
                app.state.datasheets = DatasheetStore(database, trust.identity)
                app.state.verifier = trust.verifier
                app.state.tokens = tokens or IntrospectionClient(http, settings.coordinator_url)
                yield
        finally:
            await database.close()

    return lifespan


async def run_worker(settings: RegistrySettings) -> None:
    """Run the worker until it is told to stop."""
    database = open_database(settings)
    try:
        await work(settings, database, open_contents(settings, database))
    finally:
        await database.close()
