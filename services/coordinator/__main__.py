"""``python -m services.coordinator api|worker|migrate|bootstrap|bump-epoch|…``: wiring only."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import structlog
from fastapi import FastAPI

from services.coordinator.accounts import Accounts
from services.coordinator.api.app import build_app
from services.coordinator.auditing import Auditing
from services.coordinator.cases import Cases, make_cases
from services.coordinator.conductor import Conductor
from services.coordinator.dashboard import Dashboard
from services.coordinator.dashboard.source import CoordinatorSource
from services.coordinator.gauges import Gauges
from services.coordinator.leases import Timing
from services.coordinator.log_heads import LogHeads
from services.coordinator.parties import Aggregator, Keys, KeysDirectory, Registry
from services.coordinator.repository.jobs import JobRepository
from services.coordinator.repository.sites import SiteRepository
from services.coordinator.rounds import Rounds
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.tables import common
from services.coordinator.tasks import TaskSweeper
from services.coordinator.worker import run_worker
from shared.clock import utc_now
from shared.database import Database, Transaction
from shared.database.migrations import migrate
from shared.errors import Unavailable
from shared.faults import arm
from shared.identity.authority import Identity
from shared.identity.requests import SigningAuth
from shared.identity.sealing import Sealer
from shared.queues import Bell, OutboxTail, Relay, Streams, Sweeper, background, worker_loop
from shared.telemetry.logs import configure_logging
from shared.telemetry.metrics import serve_metrics
from shared.telemetry.traces import configure_tracing
from shared.web.rotation import COMMANDS, rotate
from shared.web.server import serve
from shared.web.settings import load_settings
from shared.web.standing import Standing, standing

SERVICE = "coordinator"
_MOST_ROUNDS_SINCE_BACKUP = 1_000_000  # of one job; nobody knows how many it had
log = structlog.get_logger(__name__)


class _Present:
    """The identity, once there is one: the API starts before its certificate does."""

    def __init__(self) -> None:
        self.standing: Standing | None = None

    def __call__(self) -> Identity:
        """The present identity; raises Unavailable before the enrolment."""
        if self.standing is None:
            raise Unavailable("the coordinator has no certificate yet", retry_after_s=1)
        return self.standing.identity()


def _party(settings: CoordinatorSettings, audience: str, identity: _Present) -> httpx.AsyncClient:
    base_url: str = getattr(settings, f"{audience}_url")
    return httpx.AsyncClient(
        base_url=base_url,
        verify=settings.trust,
        auth=SigningAuth(identity, audience),
        timeout=httpx.Timeout(30, connect=5),
        limits=httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=60),
        trust_env=False,
    )


def _database(settings: CoordinatorSettings) -> Database:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if settings.migrate_on_start:
        migrate(settings.database, SERVICE)
    return Database(settings.database, common)


def _timing(settings: CoordinatorSettings) -> Timing:
    return Timing(heartbeat_s=settings.heartbeat_s, lease_s=settings.lease_s)


def api(settings: CoordinatorSettings) -> None:
    """Serve HTTP until told to stop."""
    database = _database(settings)
    streams = Streams(settings.redis)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        identity = _Present()
        bell = Bell(streams, ["coordinator.tasks", "coordinator.events"])
        async with AsyncExitStack() as stack:
            stack.push_async_callback(database.close)
            stack.push_async_callback(streams.close)
            registry = Registry(await stack.enter_async_context(_party(settings, "registry", identity)))
            sealer = Sealer.ensure(settings.seal_key)
            cases = make_cases(database, bell, sealer, registry, _timing(settings), app.state.stopping)
            app.state.cases, app.state.tokens = cases, cases.accounts
            keys = KeysDirectory(await stack.enter_async_context(_party(settings, "keys", identity)))
            app.state.auditing = Auditing(keys, registry, identity)
            app.state.dashboard = _dashboard(settings, cases, sealer, app.state.auditing)
            loops = (
                bell.run(),
                Relay(database, streams, bell=bell).run(),
                OutboxTail(database, streams, bell=bell).run(),
                cases.attendance.run(),
                cases.attendance.release(app.state.stopping),
                _stand(settings, database, app, identity),
            )
            await stack.enter_async_context(background(*loops))
            yield

    serve(
        build_app(database, streams, lifespan),
        settings.host,
        settings.port,
        limits=settings.limits,
        proxies=settings.trusted_proxies,
        tls_file=settings.tls_file,
    )


def _dashboard(settings: CoordinatorSettings, cases: Cases, sealer: Sealer, auditing: Auditing) -> Dashboard:
    origin = settings.public_url or settings.coordinator_url
    source = CoordinatorSource(
        cases.jobs,
        cases.sites,
        cases.accounts,
        auditing,
        cases.operations,
        lambda: () if cases.bell.answering else ("redis",),
    )
    return Dashboard(source, cases.signins, sealer, utc_now, origin, secure=origin.startswith("https://"))


async def _stand(settings: CoordinatorSettings, database: Database, app: FastAPI, identity: _Present) -> None:
    """Enrol, then check signatures and keep the certificate fresh, until cancelled."""
    async with standing(settings, SERVICE, database) as stands:
        identity.standing = stands
        app.state.verifier = stands.verifier
        await Sweeper(60, {"nonces": stands.nonces.prune}, housekeeping=True).run()


def worker(settings: CoordinatorSettings) -> None:
    """Consume hints and sweep until told to stop."""
    if settings.worker_metrics_port is not None:
        serve_metrics(settings.worker_metrics_port, settings.host)
    worker_loop(_work(settings, _database(settings)))


async def _work(settings: CoordinatorSettings, database: Database) -> None:
    streams, identity, timing = Streams(settings.redis), _Present(), _timing(settings)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        stack.push_async_callback(streams.close)
        identity.standing = await stack.enter_async_context(standing(settings, SERVICE, database))
        aggregator = await stack.enter_async_context(_party(settings, "aggregator", identity))
        registry = await stack.enter_async_context(_party(settings, "registry", identity))
        keys = await stack.enter_async_context(_party(settings, "keys", identity))
        rounds = Rounds(database, identity, timing, settings.round_deadline_s)
        conductor = Conductor(database, rounds, Aggregator(aggregator), Registry(registry), Keys(keys))
        await stack.enter_async_context(background(LogHeads(Keys(keys), rounds).run()))
        await run_worker(database, streams, conductor, TaskSweeper(database, timing), Gauges(database, timing))


async def _bootstrap(settings: CoordinatorSettings, out: Path) -> None:
    database = _database(settings)
    try:
        file = await Accounts(database, Sealer.ensure(settings.seal_key)).bootstrap(out)
    finally:
        await database.close()
    sys.stdout.write(f"{file}\n")


async def _bump_epoch(settings: CoordinatorSettings) -> None:
    database = _database(settings)

    async def work(tx: Transaction) -> int:
        await JobRepository(tx).skip_numbers(_MOST_ROUNDS_SINCE_BACKUP)
        return await SiteRepository(tx).bump_epoch()

    try:
        epoch = await database.run("epoch.bump", work)
    finally:
        await database.close()
    sys.stdout.write(f"epoch {epoch}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command and the environment, and do it."""
    parser = argparse.ArgumentParser(prog="python -m services.coordinator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("api", help="serve HTTP")
    commands.add_parser("worker", help="move jobs and rounds on")
    commands.add_parser("migrate", help="bring the database's schema up to date")
    first = commands.add_parser("bootstrap", help="make the first admin and its token; safe to repeat")
    first.add_argument("--out", type=Path, required=True, help="folder for admin-token (0600)")
    commands.add_parser("bump-epoch", help="after restoring a backup: agents refuse what they answered before")
    commands.add_parser("rotate-identity", help="a new key and certificate before its time")
    commands.add_parser("new-seal-key", help="a new key for secrets at rest; the one before still opens")
    chosen = parser.parse_args(arguments)
    settings = load_settings(CoordinatorSettings)
    configure_logging(SERVICE, settings.log_level, json=settings.log_json)
    configure_tracing(SERVICE, settings.otel_endpoint)
    arm(f"{SERVICE}.{chosen.command}")
    if chosen.command == "api":
        api(settings)
    elif chosen.command == "worker":
        worker(settings)
    elif chosen.command == "migrate":
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        sys.stdout.write(f"schema {migrate(settings.database, SERVICE)}\n")
    elif chosen.command == "bootstrap":
        asyncio.run(_bootstrap(settings, chosen.out))
    elif chosen.command in COMMANDS:
        rotate(chosen.command, settings)
    else:
        asyncio.run(_bump_epoch(settings))


if __name__ == "__main__":
    main()
