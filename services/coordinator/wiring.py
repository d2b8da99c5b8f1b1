"""How the parts of the coordinator are put together."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta

import httpx
from fastapi import FastAPI

from undersong.services.coordinator.api.app import application
from undersong.services.coordinator.auditing import Auditing
from undersong.services.coordinator.conductor import Conductor
from undersong.services.coordinator.dashboard import Dashboard
from undersong.services.coordinator.dashboard.source import CoordinatorSource
from undersong.services.coordinator.datasheets import Datasheets
from undersong.services.coordinator.domain.two_persons import TwoPersonRule
from undersong.services.coordinator.gauges import Gauges
from undersong.services.coordinator.jobs import Jobs
from undersong.services.coordinator.leases import Timing
from undersong.services.coordinator.log_heads import LogHeads
from undersong.services.coordinator.membership import Membership
from undersong.services.coordinator.model_catalogue import ModelCatalogue
from undersong.services.coordinator.peers.aggregator import Aggregator
from undersong.services.coordinator.peers.issuer import Issuer, Registration
from undersong.services.coordinator.peers.keys import Keys, KeysDirectory
from undersong.services.coordinator.peers.registry import Registry
from undersong.services.coordinator.rounds import Rounds
from undersong.services.coordinator.schedules import Scheduler
from undersong.services.coordinator.settings import CoordinatorSettings
from undersong.services.coordinator.sheet_keeping import SheetKeeper
from undersong.services.coordinator.sign_on import SignOn
from undersong.services.coordinator.sweeps import SweepRunner
from undersong.services.coordinator.tables import common
from undersong.services.coordinator.tasks import TaskSweeper
from undersong.services.coordinator.use_cases import UseCases, build_use_cases
from undersong.services.coordinator.webhook_sending import TIMEOUT, WebhookSender
from undersong.services.coordinator.worker import work
from undersong.shared.clock import utc_now
from undersong.shared.database import Database
from undersong.shared.errors import Unavailable
from undersong.shared.files import read_text
from undersong.shared.identity.authority import Identity
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.identity.sealing import Sealer
from undersong.shared.identity.transport import around_proxies, trust
from undersong.shared.queues import Notifier, OutboxTail, Relay, Streams, Sweeper, background
from undersong.shared.web.trust import ServiceTrust, establish_trust

SERVICE = "coordinator"


class _LateIdentity:
    """The coordinator's identity, which its API starts without."""

    def __init__(self) -> None:
        self.trust: ServiceTrust | None = None

    def __call__(self) -> Identity:
        """Return the present identity; raises Unavailable before the enrolment."""
        if self.trust is None:
            raise Unavailable("the coordinator has no certificate yet", retry_after_s=1)
        return self.trust.identity()


def open_database(settings: CoordinatorSettings) -> Database:
    """Return the service's database."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return Database(settings.database, common)


def build_app(settings: CoordinatorSettings) -> FastAPI:
    """Return the API."""
    database, streams = open_database(settings), Streams(settings.redis)
    return application(database, streams, _lifespan(settings, database, streams))


def _lifespan(
    settings: CoordinatorSettings, database: Database, streams: Streams
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        identity = _LateIdentity()
        notifier = Notifier(streams, ["coordinator.tasks", "coordinator.events"])
        async with AsyncExitStack() as stack:
            stack.push_async_callback(database.close)
            stack.push_async_callback(streams.close)
            registry = Registry(await stack.enter_async_context(_party(settings, "registry", identity)))
            sealer = Sealer.ensure(settings.seal_key)
            sign_on = await _sign_on(settings, database, sealer, stack) if settings.oidc_issuer else None
            stopping, origins = app.state.stopping, settings.allowed_origins
            rule = TwoPersonRule(settings.two_persons, timedelta(seconds=settings.confirm_within_s))
            use_cases = build_use_cases(
                database,
                notifier,
                sealer,
                registry,
                _timing(settings),
                stopping,
                origins,
                sign_on,
                rule,
            )
            app.state.use_cases, app.state.tokens = use_cases, use_cases.accounts
            keys = KeysDirectory(await stack.enter_async_context(_party(settings, "keys", identity)))
            app.state.auditing = Auditing(keys, registry, identity)
            app.state.membership = Membership(database, keys, settings.site_urls, settings.ca_file)
            app.state.datasheets = Datasheets(database, registry, keys, identity)
            app.state.catalogue = ModelCatalogue(database, registry)
            app.state.dashboard = _dashboard(settings, use_cases, sealer, app)
            loops = (
                notifier.run(),
                Relay(database, streams, notifier=notifier).run(),
                OutboxTail(database, streams, notifier=notifier).run(),
                use_cases.attendance.run(),
                use_cases.attendance.release(app.state.stopping),
                _stand(settings, database, app, identity),
            )
            await stack.enter_async_context(background(*loops))
            yield

    return lifespan


async def run_worker(settings: CoordinatorSettings) -> None:
    """Run the worker until it is told to stop."""
    database, streams = open_database(settings), Streams(settings.redis)
    identity, timing = _LateIdentity(), _timing(settings)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        stack.push_async_callback(streams.close)
        identity.trust = await stack.enter_async_context(establish_trust(settings, SERVICE, database))
        aggregator = await stack.enter_async_context(_party(settings, "aggregator", identity))
        registry = await stack.enter_async_context(_party(settings, "registry", identity))
        keys = await stack.enter_async_context(_party(settings, "keys", identity))
        rounds = Rounds(database, identity, timing, settings.round_deadline_s)
        conductor = Conductor(database, rounds, Aggregator(aggregator), Registry(registry), Keys(keys))
        await stack.enter_async_context(background(LogHeads(Keys(keys), rounds).run()))
        datasheets = Datasheets(database, Registry(registry), KeysDirectory(keys), identity)
        keeper = SheetKeeper(database, datasheets, Registry(registry))
        origins, sealer = settings.allowed_origins, Sealer.ensure(settings.seal_key)
        sender = WebhookSender(database, sealer, await stack.enter_async_context(_webhook_client(settings)), origins)
        jobs = Jobs(database, Registry(registry), timing.lease)
        submitting = Scheduler(database, jobs), SweepRunner(database, jobs)
        sweeping = TaskSweeper(database, timing), Gauges(database, timing)
        await work(database, streams, conductor, *sweeping, keeper, sender, *submitting)


async def _stand(settings: CoordinatorSettings, database: Database, app: FastAPI, identity: _LateIdentity) -> None:
    """Enrol, then check signatures and keep the certificate fresh, until cancelled."""
    async with establish_trust(settings, SERVICE, database) as trust:
        identity.trust = trust
        app.state.verifier = trust.verifier
        await Sweeper(60, {"nonces": trust.nonces.prune}, housekeeping=True).run()


def _party(settings: CoordinatorSettings, audience: str, identity: _LateIdentity) -> httpx.AsyncClient:
    base_url: str = getattr(settings, f"{audience}_url")
    return httpx.AsyncClient(
        base_url=base_url,
        verify=settings.trust,
        auth=SigningAuth(identity, audience),
        timeout=httpx.Timeout(30, connect=5),
        limits=httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=60),
        trust_env=False,
    )


def _webhook_client(settings: CoordinatorSettings) -> httpx.AsyncClient:
    """Return a client that follows no redirect, and takes the proxy of the environment for what is not this machine."""
    verify = trust(settings.webhook_ca_file, settings.allowed_origins)
    return httpx.AsyncClient(verify=verify, timeout=TIMEOUT, follow_redirects=False, mounts=around_proxies())


async def _sign_on(settings: CoordinatorSettings, database: Database, sealer: Sealer, stack: AsyncExitStack) -> SignOn:
    """Return the sign-on of people by the settings' issuer; the client follows no redirect."""
    file = settings.oidc_client_secret_file
    secret = read_text(file).strip() if file else ""
    registration = Registration(settings.oidc_issuer, settings.oidc_client_id, secret, settings.oidc_scopes)
    http = httpx.AsyncClient(
        verify=trust(settings.oidc_ca_file, ("https:",)),
        timeout=httpx.Timeout(10, connect=5),
        follow_redirects=False,
        mounts=around_proxies(),
    )
    issuer = Issuer(await stack.enter_async_context(http), registration, utc_now)
    claim, roles, lasts = settings.oidc_groups_claim, settings.oidc_roles, settings.oidc_session_s
    return SignOn(database, issuer, sealer, claim, roles, lasts)


def _timing(settings: CoordinatorSettings) -> Timing:
    return Timing(heartbeat_s=settings.heartbeat_s, lease_s=settings.lease_s)


def _dashboard(settings: CoordinatorSettings, use_cases: UseCases, sealer: Sealer, app: FastAPI) -> Dashboard:
    origin = settings.own_origin
    source = CoordinatorSource(
        use_cases.jobs,
        use_cases.comparisons,
        use_cases.timelines,
        use_cases.clones,
        use_cases.schedules,
        use_cases.sweeps,
        use_cases.federations,
        use_cases.sites,
        use_cases.accounts,
        app.state.auditing,
        app.state.datasheets,
        use_cases.operations,
        lambda: () if use_cases.notifier.answering else ("redis",),
        app.state.membership,
        use_cases.two_persons,
        app.state.catalogue,
    )
    secure = origin.startswith("https://")
    return Dashboard(source, use_cases.signins, sealer, utc_now, origin, secure, use_cases.sign_on)
