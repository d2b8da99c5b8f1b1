"""How each process of the platform starts: the real parts, as their services put them together, without sockets."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx
from fastapi import FastAPI

import undersong.services.aggregator.wiring as aggregator
import undersong.services.coordinator.api.app
import undersong.services.keys.wiring as keys
from tests.services.aggregator.conftest import NoTokens
from tests.simulation.oneprocess.founding import TIMING, NoRevocations, url_of
from tests.simulation.oneprocess.process import Wire
from undersong.services.aggregator.settings import AggregatorSettings
from undersong.services.coordinator.conductor import Conductor
from undersong.services.coordinator.peers.aggregator import Aggregator
from undersong.services.coordinator.peers.keys import Keys
from undersong.services.coordinator.peers.registry import Registry
from undersong.services.coordinator.rounds import Rounds
from undersong.services.coordinator.tasks import TaskSweeper
from undersong.services.coordinator.use_cases import build_use_cases
from undersong.services.keys.settings import KeysSettings
from undersong.shared.identity.directory import CertificateDirectory
from undersong.shared.identity.enrol import IdentityKeeper
from undersong.shared.identity.nonces import SqlNonces
from undersong.shared.identity.sealing import Sealer
from undersong.shared.identity.verify import PartyVerifier, RevocationFeed
from undersong.shared.queues import Notifier
from undersong.shared.web.trust import ServiceTrust

if TYPE_CHECKING:
    from tests.simulation.oneprocess.platform import InProcessPlatform

ROUND_S: Final = 60
WORKER_LEASE_S: Final = 10.0


class _StoppingNotifier:
    """Stop instead of waiting, as a worker does that is told to."""

    def notify_local(self, key: str) -> None:
        """Return without waiting."""

    @contextmanager
    def listen(self, key: str) -> Iterator["_StoppingNotifier"]:
        yield self

    async def wait(self, timeout_s: float) -> bool:
        raise asyncio.CancelledError


async def keys_api(platform: "InProcessPlatform") -> None:
    app = keys.build_app(KeysSettings(database_url=url_of(platform.folder, "keys"), data_dir=platform.folder / "keys"))
    await platform.stack.enter_async_context(app.router.lifespan_context(app))
    platform.apps["keys.api"] = app


async def coordinator_api(platform: "InProcessPlatform") -> None:
    database = platform.databases["coordinator"]
    app = undersong.services.coordinator.api.app.application(database, platform.streams)
    notifier = Notifier(platform.streams, ["coordinator.tasks"])
    registry = Registry(platform.http("coordinator", "registry"))
    sealer = Sealer.ensure(platform.folder / "seal.key")
    platform.use_cases = build_use_cases(database, notifier, sealer, registry, TIMING, app.state.stopping)
    app.state.use_cases, app.state.tokens = platform.use_cases, platform.use_cases.accounts
    ca = platform.founding.identities["coordinator"].ca_certificate
    app.state.verifier = PartyVerifier(ca, "coordinator", SqlNonces(database), NoRevocations())
    platform.apps["coordinator.api"] = app


async def coordinator_worker(platform: "InProcessPlatform") -> None:
    database, me = platform.databases["coordinator"], platform.founding.identities["coordinator"]
    parties = (platform.http("coordinator", to) for to in ("aggregator", "registry", "keys"))
    to_aggregator, to_registry, to_keys = parties
    rounds = Rounds(database, lambda: me, TIMING, float(ROUND_S))
    platform.conductor = Conductor(database, rounds, Aggregator(to_aggregator), Registry(to_registry), Keys(to_keys))
    platform.task_sweeper = TaskSweeper(database, TIMING)


async def aggregator_api(platform: "InProcessPlatform") -> None:
    settings, stand, notifier = _aggregator_stand(platform)
    app = aggregator.build_app(settings)
    parts = aggregator.assemble(settings, platform.databases["aggregator"], stand, notifier)
    aggregator.install(app, parts, stand, NoTokens())
    platform.apps["aggregator.api"] = app


async def aggregator_worker(platform: "InProcessPlatform") -> None:
    settings, stand, notifier = _aggregator_stand(platform)
    parts = aggregator.assemble(settings, platform.databases["aggregator"], stand, notifier)
    platform.maintenance, platform.driver, _ = aggregator.build_worker(settings, parts, stand, notifier)
    platform.woken = []
    driver: Any = platform.driver
    driver.wake, driver._notifier = lambda round_id: platform.woken.append(round_id) or True, _StoppingNotifier()


def _aggregator_stand(platform: "InProcessPlatform") -> tuple[AggregatorSettings, ServiceTrust, Notifier]:
    me, database = platform.founding.identities["aggregator"], platform.databases["aggregator"]
    settings = AggregatorSettings(
        database_url=url_of(platform.folder, "aggregator"),
        data_dir=platform.folder / "aggregator",
        registry_url="http://registry",
        keys_url="http://keys",
        worker_lease_s=WORKER_LEASE_S,
    )
    http = httpx.AsyncClient(mounts={
        f"http://{to}": Wire(platform, f"{to}.api", lambda to=to: _app(platform, to)) for to in ("keys", "registry")
    })  # fmt: skip
    feed = RevocationFeed(http, "http://keys")
    stand = ServiceTrust(
        identity=IdentityKeeper(me, settings.identity_dir, http, "http://keys"),
        verifier=PartyVerifier(me.ca_certificate, "aggregator", SqlNonces(database), NoRevocations()),
        revocations=feed,
        directory=CertificateDirectory(http, "http://keys", me.ca_certificate),
        nonces=SqlNonces(database),
        http=http,
    )
    return settings, stand, Notifier(platform.streams, ["aggregator.updates"])


def _app(platform: "InProcessPlatform", service: str) -> FastAPI:
    return platform.registry.app if service == "registry" else platform.apps[f"{service}.api"]


START: Final[Mapping[str, Callable[["InProcessPlatform"], Awaitable[None]]]] = {
    "keys.api": keys_api,
    "coordinator.api": coordinator_api,
    "coordinator.worker": coordinator_worker,
    "aggregator.api": aggregator_api,
    "aggregator.worker": aggregator_worker,
}
"""In the order in which they need each other."""
