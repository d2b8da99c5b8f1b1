"""How each process of the house starts: the real parts, as their services put them together, without sockets."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx
from fastapi import FastAPI

import services.aggregator.wiring as aggregator
import services.coordinator.api.app
import services.keys.wiring as keys
from services.aggregator.settings import AggregatorSettings
from services.coordinator.cases import make_cases
from services.coordinator.conductor import Conductor
from services.coordinator.parties import Aggregator, Keys, Registry
from services.coordinator.rounds import Rounds
from services.coordinator.tasks import TaskSweeper
from services.keys.settings import KeysSettings
from shared.identity.directory import CertificateDirectory
from shared.identity.enrol import IdentityKeeper
from shared.identity.nonces import SqlNonces
from shared.identity.sealing import Sealer
from shared.identity.verify import PartyVerifier, RevocationFeed
from shared.queues import Bell
from shared.web.standing import Standing
from tests.services.aggregator.conftest import NoTokens
from tests.simulation.onehouse.founding import TIMING, NoRevocations, url_of
from tests.simulation.onehouse.process import Wire

if TYPE_CHECKING:
    from tests.simulation.onehouse.house import House

ROUND_S: Final = 60
WORKER_LEASE_S: Final = 10.0


class _TiredBell:
    """Whoever would wait stops instead, as a worker does that is told to."""

    def ring_local(self, key: str) -> None:
        """Nobody waits."""

    @contextmanager
    def listen(self, key: str) -> Iterator["_TiredBell"]:
        yield self

    async def wait(self, timeout_s: float) -> bool:
        raise asyncio.CancelledError


async def keys_api(house: "House") -> None:
    app = keys.build_app(KeysSettings(database_url=url_of(house.folder, "keys"), data_dir=house.folder / "keys"))
    await house.stack.enter_async_context(app.router.lifespan_context(app))
    house.apps["keys.api"] = app


async def coordinator_api(house: "House") -> None:
    database = house.databases["coordinator"]
    app = services.coordinator.api.app.application(database, house.streams)
    bell = Bell(house.streams, ["coordinator.tasks"])
    registry = Registry(house.http("coordinator", "registry"))
    sealer = Sealer.ensure(house.folder / "seal.key")
    house.cases = make_cases(database, bell, sealer, registry, TIMING, app.state.stopping)
    app.state.cases, app.state.tokens = house.cases, house.cases.accounts
    ca = house.founding.identities["coordinator"].ca_certificate
    app.state.verifier = PartyVerifier(ca, "coordinator", SqlNonces(database), NoRevocations())
    house.apps["coordinator.api"] = app


async def coordinator_worker(house: "House") -> None:
    database, me = house.databases["coordinator"], house.founding.identities["coordinator"]
    parties = (house.http("coordinator", to) for to in ("aggregator", "registry", "keys"))
    to_aggregator, to_registry, to_keys = parties
    rounds = Rounds(database, lambda: me, TIMING, float(ROUND_S))
    house.conductor = Conductor(database, rounds, Aggregator(to_aggregator), Registry(to_registry), Keys(to_keys))
    house.task_sweeper = TaskSweeper(database, TIMING)


async def aggregator_api(house: "House") -> None:
    settings, stand, bell = _aggregator_stand(house)
    app = aggregator.build_app(settings)
    parts = aggregator.assemble(settings, house.databases["aggregator"], stand, bell)
    aggregator.install(app, parts, stand, NoTokens())
    house.apps["aggregator.api"] = app


async def aggregator_worker(house: "House") -> None:
    settings, stand, bell = _aggregator_stand(house)
    parts = aggregator.assemble(settings, house.databases["aggregator"], stand, bell)
    house.hands, house.foreman, _ = aggregator.employ(settings, parts, stand, bell)
    house.woken = []
    foreman: Any = house.foreman
    foreman.wake, foreman._bell = lambda round_id: house.woken.append(round_id) or True, _TiredBell()


def _aggregator_stand(house: "House") -> tuple[AggregatorSettings, Standing, Bell]:
    me, database = house.founding.identities["aggregator"], house.databases["aggregator"]
    settings = AggregatorSettings(
        database_url=url_of(house.folder, "aggregator"),
        data_dir=house.folder / "aggregator",
        registry_url="http://registry",
        keys_url="http://keys",
        worker_lease_s=WORKER_LEASE_S,
    )
    http = httpx.AsyncClient(mounts={
        f"http://{to}": Wire(house, f"{to}.api", lambda to=to: _app(house, to)) for to in ("keys", "registry")
    })  # fmt: skip
    feed = RevocationFeed(http, "http://keys")
    stand = Standing(
        identity=IdentityKeeper(me, settings.identity_dir, http, "http://keys"),
        verifier=PartyVerifier(me.ca_certificate, "aggregator", SqlNonces(database), NoRevocations()),
        revocations=feed,
        directory=CertificateDirectory(http, "http://keys", me.ca_certificate),
        nonces=SqlNonces(database),
        http=http,
    )
    return settings, stand, Bell(house.streams, ["aggregator.updates"])


def _app(house: "House", service: str) -> FastAPI:
    return house.registry.app if service == "registry" else house.apps[f"{service}.api"]


START: Final[Mapping[str, Callable[["House"], Awaitable[None]]]] = {
    "keys.api": keys_api,
    "coordinator.api": coordinator_api,
    "coordinator.worker": coordinator_worker,
    "aggregator.api": aggregator_api,
    "aggregator.worker": aggregator_worker,
}
"""In the order in which they need each other."""
