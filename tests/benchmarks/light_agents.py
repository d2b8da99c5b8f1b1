"""Many light agents in one process: python -m tests.benchmarks.light_agents PLAN.

PLAN is a JSON file: the fields of `Plan`. Each agent is a site of its own with an own key, certificate and signed
requests, enrolled the way every agent is. It waits for tasks in a long poll as the real one does; of a round it does
what costs the platform something (fetches the model, seals an update, uploads it), and trains nothing.

A JSON line {"joined": n} is printed when all have joined; on SIGTERM the process writes its `Report` and ends.
"""

import asyncio
import hashlib
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.shared.secagg.verifiers import UNCERTIFIED
from undersong.client import AsyncClient, calls
from undersong.profile import Profile
from undersong.recipes.null import RECIPE
from undersong.services.agent.peers.aggregator import Aggregator
from undersong.services.agent.peers.coordinator import WAIT_S, Lease
from undersong.services.agent.peers.link import Away, Call, Link, RequestRefused, make_client, pause_of
from undersong.shared.identity.authority import Identity
from undersong.shared.identity.enrol import Unreachable, enrol
from undersong.shared.ids import Digest, SiteId
from undersong.shared.learning.tensors import save
from undersong.shared.secagg.engine import ClientRound, Payload
from undersong.shared.secagg.engines import engine_named
from undersong.shared.secagg.payload import model_payload, train_payload
from undersong.shared.wire.manifest import RoundKind, RoundManifest

AT_ONCE = 16  # joining: what the load process itself can bear
FIRST_POLLS_WITHIN_S = 60.0  # agents do not all start in the same second
PATIENT = httpx.Timeout(WAIT_S + 60.0)  # one loop drives all agents: its own lag is no fault of the platform


@dataclass(frozen=True)
class Plan:
    """What the process is told. `groups`: data set → how many agents declare it, beside `idle`, which all do."""

    profile: dict[str, str]
    federation_id: str
    agents: int
    groups: dict[str, int]
    site_profile: dict[str, Any]
    report: str


@dataclass
class Report:
    """What came of it. Times are seconds since the epoch; `answers` counts polls by what they ended with."""

    answers: Counter[str] = field(default_factory=Counter)
    leases: list[tuple[str, float]] = field(default_factory=list)  # (task, when its lease was there)
    refusals: Counter[str] = field(default_factory=Counter)  # what had to be asked again, or failed, by its reason
    joined_s: float = 0.0


class Crowd:
    """All agents of the process, and what they share."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder, self.report = plan, folder, Report()
        self.profile = Profile(**plan.profile)
        self.joining, self.sealing = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(2)

    async def run(self, stop: asyncio.Event) -> None:
        """Join all, then poll until told to stop."""
        began = time.monotonic()
        async with AsyncClient(self.profile) as admin:
            agents = await asyncio.gather(*(self._join(admin, number) for number in range(self.plan.agents)))
        self.report.joined_s = time.monotonic() - began
        polling = [asyncio.create_task(agent.run()) for agent in agents]
        print(json.dumps({"joined": len(agents)}), flush=True)
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait({stopping, *polling}, return_when=asyncio.FIRST_COMPLETED)
        for task in polling:
            task.cancel()
        await asyncio.gather(*polling, return_exceptions=True)
        for task in done - {stopping}:
            task.result()  # an agent that ended by itself is a fault of this program

    async def _join(self, admin: AsyncClient, number: int) -> "LightAgent":
        async with self.joining:
            site = await admin.create_site(self.plan.federation_id, f"light-{number:05}")
            asked = calls.create_enrolment_token("site", site.id, self.plan.federation_id, 3600)
            token = await admin.send(asked)
            urls = self.profile.urls()
            http = make_client(None, urls.values())
            identity = await _enrolled(http, urls["keys"], token.token)
            agent = LightAgent(SiteId(site.id), identity, http, self)
            await agent.tell(self._document(number))
            return agent

    def _document(self, number: int) -> dict[str, Any]:
        """The profile of a real agent, with the data sets of the groups that this agent belongs to."""
        (dataset,) = self.plan.site_profile["datasets"]
        names = ["idle", *(name for name, size in self.plan.groups.items() if number < size)]
        return {**self.plan.site_profile, "datasets": [{**dataset, "name": name} for name in names]}


async def _enrolled(http: httpx.AsyncClient, keys_url: str, token: str) -> Identity:
    key = Ed25519PrivateKey.generate()
    while True:
        try:
            return await enrol(http, keys_url, token, key)
        except Unreachable:  # 429 or 503: as asked, later
            await asyncio.sleep(random.uniform(0.5, 1.5))


class LightAgent:
    """One site."""

    def __init__(self, site_id: SiteId, identity: Identity, http: httpx.AsyncClient, crowd: Crowd) -> None:
        self.site_id, self._crowd = site_id, crowd
        self._sent: dict[str, Digest] = {}
        urls = crowd.profile.urls()
        links = {name: Link(http, urls[name], name, lambda: identity) for name in ("coordinator", "registry")}
        self._coordinator, self._registry = links["coordinator"], links["registry"]
        self._aggregator = Aggregator(Link(http, urls["aggregator"], "aggregator", lambda: identity))

    async def tell(self, profile: dict[str, Any]) -> None:
        """Say what data there is."""
        await self._coordinator.ask(Call.json("PUT", "/v1/sites/self/profile", profile))

    async def run(self) -> None:
        """Poll, and run the tasks, until cancelled."""
        await asyncio.sleep(random.uniform(0, FIRST_POLLS_WITHIN_S))
        while True:
            try:
                lease = await self._poll()
                if lease is not None:
                    await self._at_work(lease)
            except Away as away:
                self._crowd.report.refusals[_kind(away)] += 1
                await asyncio.sleep(pause_of(away))
            except RequestRefused as problem:
                self._crowd.report.refusals[_kind(problem)] += 1
                await asyncio.sleep(1.0)

    async def _poll(self) -> Lease | None:
        call = Call.json("POST", "/v1/tasks/leases", {"wait_s": WAIT_S}, timeout=PATIENT)
        try:
            answer = await self._coordinator.once(call)
        except (Away, RequestRefused):
            self._crowd.report.answers["failed"] += 1
            raise
        self._crowd.report.answers[str(answer.status_code)] += 1
        if answer.status_code == httpx.codes.NO_CONTENT:
            return None
        lease = Lease.model_validate_json(answer.content)
        self._crowd.report.leases.append((lease.task_id, time.time()))
        return lease

    async def _at_work(self, lease: Lease) -> None:
        """Perform, with a heartbeat beside it; a round that is over is left."""
        beating = asyncio.create_task(self._beat(lease))
        try:
            await self._perform(lease)
        finally:
            beating.cancel()

    async def _beat(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(lease.heartbeat_s)
            body = {"lease_token": lease.lease_token, "progress": 0.5, "phase": "running"}
            try:
                await self._coordinator.once(
                    Call.json("POST", f"/v1/tasks/{lease.task_id}/heartbeats", body, timeout=PATIENT)
                )
            except (Away, RequestRefused) as error:
                self._crowd.report.refusals[_kind(error)] += 1

    async def _perform(self, lease: Lease) -> None:
        digest = self._sent.get(lease.round_id) or await self._send(lease)
        self._sent = {lease.round_id: digest}  # a round that is answered is not answered otherwise
        document = {"lease_token": lease.lease_token, "digest": digest}
        path = f"/v1/tasks/{lease.task_id}/completions"
        await self._coordinator.ask(Call.json("POST", path, document, timeout=PATIENT))

    async def _send(self, lease: Lease) -> Digest:
        manifest = lease.signed_manifest.manifest
        if manifest.model is not None:
            await self._fetch(manifest.model.version_id)
        async with self._crowd.sealing:
            digest, size = await asyncio.to_thread(self._seal, lease, manifest)
        body = self._crowd.folder / digest
        try:
            await self._aggregator.upload(manifest.round_id, body, digest, size)  # as often as it is asked to
        finally:
            body.unlink(missing_ok=True)
        return digest

    async def _fetch(self, version_id: str) -> None:
        async with self._registry.open(Call("GET", f"/v1/versions/{version_id}/content", timeout=PATIENT)) as response:
            async for _ in response.aiter_raw(256 * 1024):
                pass

    def _seal(self, lease: Lease, manifest: RoundManifest) -> tuple[Digest, int]:
        """Write the sealed body, named by its digest. In a thread."""
        client_round = ClientRound(manifest, self.site_id, lease.engine_public.document.public)
        client = engine_named(manifest.engine).client
        _, pieces = client.upload(client_round, client.begin(client_round, UNCERTIFIED), None, _payload(manifest))
        return _written(pieces, self._crowd.folder)


def _kind(error: Away | RequestRefused) -> str:
    return f"{error.status} {error.slug}" if isinstance(error, RequestRefused) else str(error)[:80]


def _payload(manifest: RoundManifest) -> Payload:
    parameters = int(str(manifest.recipe.params["parameters"]))
    if manifest.kind is RoundKind.INITIALISE:
        model = RECIPE.initial(None, manifest.recipe.params, {}, manifest.seed)  # type: ignore[arg-type]
        return model_payload(save(model))
    delta = np.zeros(parameters, np.float32)
    return train_payload(manifest, delta, examples=1, loss=0.0, key=random.randbytes(32))


def _written(pieces: Iterator[bytes | memoryview], folder: Path) -> tuple[Digest, int]:
    running, size = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        for piece in pieces:
            running.update(piece)
            size += file.write(piece)
    digest = Digest(running.hexdigest())
    Path(file.name).replace(folder / digest)
    return digest, size


async def main(plan: Plan) -> Report:
    """Until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with tempfile.TemporaryDirectory(prefix="undersong-light-") as folder:
        crowd = Crowd(plan, Path(folder))
        await crowd.run(stop)
    return crowd.report


if __name__ == "__main__":
    import structlog
    import uvloop

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    told = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    Path(told.report).write_text(json.dumps(vars(uvloop.run(main(told)))))
