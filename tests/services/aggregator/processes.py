"""Real processes of the aggregator: one api and its workers, and who talks to them."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from tests.services.aggregator.conftest import FakeRegistry
from undersong.local.forks import Forks
from undersong.local.process import Running
from undersong.shared.identity.authority import Identity, Subject
from undersong.shared.identity.digests import content_digest
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.wire.manifest import RoundManifest, SignedManifest


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


Start = Callable[[str, dict[str, str]], AbstractContextManager[Running]]


@pytest.fixture
def process(forks: Forks, tmp_path: Path) -> Start:
    """Start a process of the aggregator; it ends with the block."""

    @contextmanager
    def start(command: str, environment: dict[str, str]) -> Iterator[Running]:
        log = tmp_path / "processes.log"
        started = forks.spawn("undersong.services.aggregator", [command], env=environment, cwd=tmp_path, log=log)
        assert started is not None
        try:
            yield started
        finally:
            started.terminate()
            started.wait(60)
            print(log.read_text())  # shown where the test failed

    return start


@pytest.fixture
async def registry() -> AsyncIterator[tuple[FakeRegistry, str]]:
    fake, port = FakeRegistry(), free_port()
    server = uvicorn.Server(uvicorn.Config(fake.app, port=port, log_config=None))
    task = asyncio.create_task(server.serve())
    yield fake, f"http://127.0.0.1:{port}"
    server.should_exit = True
    await task


class Outside:
    """Talks to the api process as coordinator and as sites."""

    def __init__(self, environment: dict[str, str], make: Callable[[Subject], Identity]) -> None:
        self.url, self.make = f"http://127.0.0.1:{environment['AGGREGATOR_PORT']}", make
        self.coordinator = make(Subject("service", "coordinator"))

    async def ask(self, identity: Identity, method: str, path: str, **request: Any) -> httpx.Response:
        async with httpx.AsyncClient(auth=SigningAuth(identity, "aggregator"), timeout=20) as http:
            return await http.request(method, self.url + path, **request)

    async def ready(self) -> None:
        async with httpx.AsyncClient() as http:
            while True:
                try:
                    if (await http.get(f"{self.url}/health/ready")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)

    async def open(self, manifest: RoundManifest) -> dict[str, Any]:
        signature = self.coordinator.private_key.sign(manifest.statement()).hex()
        signed = SignedManifest(manifest=manifest, keyid=self.coordinator.keyid, signature=signature)
        headers = {"content-type": "application/json"}
        path = f"/v1/rounds/{manifest.round_id}"
        answer = await self.ask(self.coordinator, "PUT", path, content=signed.model_dump_json(), headers=headers)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def send(self, round_id: str, site: str, body: bytes) -> None:
        headers = {"content-type": "application/octet-stream", "content-digest": content_digest(body)}
        identity = self.make(Subject("site", site, "fed_a"))
        answer = await self.ask(identity, "PUT", f"/v1/rounds/{round_id}/updates", content=body, headers=headers)
        assert answer.status_code == 201, answer.text

    async def ended(self, round_id: str) -> dict[str, Any]:
        while True:
            found: dict[str, Any] = (await self.ask(self.coordinator, "GET", f"/v1/rounds/{round_id}")).json()
            if found["state"] in ("published", "failed"):
                return found
            await asyncio.sleep(0.05)


Enrolled = Callable[[str], tuple[FakeRegistry, dict[str, str], Outside]]


@pytest.fixture
def enrolled(
    redis_url: str, tmp_path: Path, make_identity: Callable[[Subject], Identity], registry: tuple[FakeRegistry, str]
) -> Enrolled:
    """An aggregator on a given database, none of it running: its registry, its processes' environment, its callers."""
    fake, registry_url = registry
    make_identity(Subject("service", "aggregator")).save(tmp_path / "data" / "identity")

    def on(database_url: str) -> tuple[FakeRegistry, dict[str, str], Outside]:
        environment = {
            **os.environ,
            "AGGREGATOR_DATABASE_URL": database_url,
            "AGGREGATOR_REDIS_URL": redis_url,
            "AGGREGATOR_DATA_DIR": str(tmp_path / "data"),
            "AGGREGATOR_PORT": str(free_port()),
            "AGGREGATOR_KEYS_URL": "http://127.0.0.1:9",
            "AGGREGATOR_REGISTRY_URL": registry_url,
            "AGGREGATOR_MIGRATE_ON_START": "true",
            "AGGREGATOR_WORKER_LEASE_S": "1",
            "AGGREGATOR_SWEEP_S": "0.3",
            "AGGREGATOR_LOG_LEVEL": "ERROR",
        }
        return fake, environment, Outside(environment, make_identity)

    return on


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  (no event says so)
        await asyncio.sleep(0.02)
