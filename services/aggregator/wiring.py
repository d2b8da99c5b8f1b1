"""How the components of the aggregator are put together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from fastapi import FastAPI

from undersong.services.aggregator.api.rounds import router
from undersong.services.aggregator.api.steps import router as steps_router
from undersong.services.aggregator.contributions.part_worker import PartWorker
from undersong.services.aggregator.contributions.parts import RoundParts
from undersong.services.aggregator.contributions.updates import Updates
from undersong.services.aggregator.driver.closing import Closing
from undersong.services.aggregator.driver.driver import RoundDriver
from undersong.services.aggregator.driver.maintenance import RoundMaintenance, new_worker_id
from undersong.services.aggregator.driver.publication import Publication
from undersong.services.aggregator.driver.records import Records
from undersong.services.aggregator.driver.verification import Verification
from undersong.services.aggregator.peers.custodian import Custodian
from undersong.services.aggregator.peers.helper import Helper
from undersong.services.aggregator.peers.keys import Keys
from undersong.services.aggregator.peers.parties import Parties
from undersong.services.aggregator.peers.registry import Registry
from undersong.services.aggregator.repository.parts import PARTS_TOPIC
from undersong.services.aggregator.repository.rounds import STEPS_TOPIC, WORK_TOPIC
from undersong.services.aggregator.rounds.lifecycle import Rounds
from undersong.services.aggregator.settings import AggregatorSettings
from undersong.services.aggregator.steps.exchange import Steps
from undersong.services.aggregator.tables import common
from undersong.services.aggregator.worker import work
from undersong.shared.blobs import BlobStore
from undersong.shared.clock import Clock
from undersong.shared.database import Database
from undersong.shared.identity.sealing import Sealer
from undersong.shared.queues import Notifier, OutboxTail, Relay, Streams, background
from undersong.shared.secagg.engines import preload
from undersong.shared.secagg.facts import WITNESS
from undersong.shared.web.access import IntrospectionClient, TokenDirectory
from undersong.shared.web.app import create_app
from undersong.shared.web.health import database_checks
from undersong.shared.web.trust import ServiceTrust, establish_trust, traced_client
from undersong.shared.wire.custodian import CUSTODIAN, custodian_service
from undersong.shared.wire.helper import HELPER


@dataclass(frozen=True)
class Components:
    """The use cases over one database and one store."""

    database: Database
    blobs: BlobStore
    sealer: Sealer
    helper: Helper
    keys: Keys
    parties: Parties
    rounds: Rounds
    updates: Updates
    steps: Steps


def open_database(settings: AggregatorSettings, clock: Clock | None = None) -> Database:
    """Return the service's database."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return Database(settings.database, common, clock=clock)


def assemble(settings: AggregatorSettings, database: Database, trust: ServiceTrust, notifier: Notifier) -> Components:
    """Build the use cases."""
    blobs, sealer = BlobStore.open(settings.blobs, settings.bucket), Sealer.ensure(settings.seal_key)
    helper = Helper(trust.http, trust.signing(HELPER), settings.helper_url, trust.directory)
    keys = Keys(trust.http, trust.signing("keys"), settings.keys_url)
    custodians = [
        Custodian(trust.http, trust.signing(custodian_service(index)), url.rstrip("/"), trust.directory, index)
        for index, url in enumerate(settings.custodian_urls.split())
    ]
    parties = Parties({WITNESS: [keys], HELPER: [helper], CUSTODIAN: custodians})
    return Components(
        database=database,
        blobs=blobs,
        sealer=sealer,
        helper=helper,
        keys=keys,
        parties=parties,
        rounds=Rounds(database, blobs, trust.identity, sealer, parties, finish=timedelta(seconds=settings.finish_s)),
        updates=Updates(database, blobs, trust.identity, sealer, max_update_bytes=settings.max_update_bytes),
        steps=Steps(database, sealer, notifier),
    )


class WorkerComponents(NamedTuple):
    """Who works in a worker."""

    maintenance: RoundMaintenance
    driver: RoundDriver
    part_worker: PartWorker


def build_worker(
    settings: AggregatorSettings, components: Components, trust: ServiceTrust, notifier: Notifier
) -> WorkerComponents:
    """Return the worker's components."""
    registry = Registry(trust.http, trust.signing("registry"), settings.registry_url, components.blobs)
    publication = Publication(components.database, components.blobs, registry, trust.identity, components.rounds)
    records, worker_id = Records(components.database, components.keys), new_worker_id()
    shared = RoundParts(
        components.database,
        components.blobs,
        components.sealer,
        worker_id=worker_id,
        lease_s=settings.worker_lease_s,
        min_updates=settings.share_updates,
        min_bytes=settings.share_bytes,
    )
    driver = RoundDriver(
        components.database,
        components.blobs,
        components.rounds,
        publication,
        components.sealer,
        notifier,
        Closing(
            components.database,
            components.blobs,
            components.sealer,
            components.parties,
            patience=timedelta(seconds=settings.step_s),
        ),
        records,
        Verification(components.helper, trust.directory, trust.revocations),
        components.parties,
        shared,
        worker_id=worker_id,
        lease_s=settings.worker_lease_s,
    )
    part_worker = PartWorker(
        components.database,
        components.blobs,
        components.sealer,
        notifier,
        worker_id=worker_id,
        lease_s=settings.worker_lease_s,
        look_every_s=settings.sweep_s,
    )
    return WorkerComponents(
        RoundMaintenance(components.database, components.blobs, components.rounds, driver, records, shared),
        driver,
        part_worker,
    )


def install(app: FastAPI, components: Components, trust: ServiceTrust, tokens: TokenDirectory) -> None:
    """Put the components where the routes find them."""
    app.state.rounds, app.state.updates, app.state.steps = components.rounds, components.updates, components.steps
    app.state.directory, app.state.verifier = trust.directory, trust.verifier
    app.state.tokens = tokens


def build_app(settings: AggregatorSettings, clock: Clock | None = None) -> FastAPI:
    """Return the API."""
    database, streams = open_database(settings, clock), Streams(settings.redis)
    store = BlobStore.open(settings.blobs, settings.bucket)
    return create_app(
        title="Undersong aggregator",
        service="aggregator",
        description="Takes sites' updates, opens only their sum, and publishes what comes of it.",
        routers=[router, steps_router],
        lifespan=_lifespan(settings, database, streams),
        checks=database_checks(database, "aggregator"),
        degradable={  # without room uploads are refused, and rounds still end
            "redis": streams.ping,
            "blobs": store.check,
            "conditional_writes": store.probe,
        },
    )


def _lifespan(
    settings: AggregatorSettings, database: Database, streams: Streams
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with establish_trust(settings, "aggregator", database) as trust, traced_client(settings) as coordinator:
            coordinator.auth = trust.signing("coordinator")
            tokens = IntrospectionClient(coordinator, settings.coordinator_url)
            notifier = Notifier(streams, [STEPS_TOPIC])
            install(app, assemble(settings, database, trust, notifier), trust, tokens)
            loops = (
                Relay(database, streams, notifier=notifier).run(),
                OutboxTail(database, streams, notifier=notifier).run(),
                notifier.run(),
            )
            async with preloading(), background(*loops):
                yield
        await streams.close()
        await database.close()

    return lifespan


@asynccontextmanager
async def preloading() -> AsyncIterator[None]:
    """Load the engines' kernels beside the start, so that the first round does not wait for them."""
    loading = asyncio.create_task(asyncio.to_thread(preload))
    try:
        yield
    finally:
        await loading


async def run_worker(settings: AggregatorSettings) -> None:
    """Live the worker's whole life."""
    database, streams = open_database(settings), Streams(settings.redis)
    notifier = Notifier(streams, [WORK_TOPIC, PARTS_TOPIC])
    try:
        async with preloading(), establish_trust(settings, "aggregator", database) as trust:
            parts = build_worker(settings, assemble(settings, database, trust, notifier), trust, notifier)
            keep = timedelta(seconds=settings.keep_blobs_s)
            prune = {"nonces": trust.nonces.prune}
            await work(database, streams, *parts, notifier, prune=prune, sweep_s=settings.sweep_s, keep=keep)
    finally:
        await streams.close()
        await database.close()
