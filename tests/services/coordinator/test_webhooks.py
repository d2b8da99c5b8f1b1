"""Webhooks: signed as receivers check it, tried again, given up, sent to allowed origins only; by administrators."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.services.coordinator.world import World
from undersong.services.coordinator.domain.webhooks import EVENTS, GIVEN_UP_AFTER, refusal_of
from undersong.services.coordinator.repository.webhooks import MOST_OF_ONE, WebhookRepository
from undersong.services.coordinator.settings import CoordinatorSettings
from undersong.services.coordinator.webhook_sending import WebhookSender
from undersong.services.coordinator.webhooks import MOST, Webhooks
from undersong.shared.identity.sealing import Sealer, add_key, drop_old_keys


@dataclass
class Receiver:
    """A web server that keeps what it gets, and answers as told."""

    server: ThreadingHTTPServer
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    status: int = 204

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            made.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(made.status)
            self.send_header("location", f"{made.origin}/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    made = Receiver(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
    threading.Thread(target=made.server.serve_forever, daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


@dataclass
class Hooks:
    """A world with a receiver's origin allowed, and what sends to it."""

    world: World
    receiver: Receiver
    sender: WebhookSender
    sealer: Sealer

    async def make(self, federation: str, *events: str, code: int = 201, **changes: Any) -> dict[str, Any]:
        body = {"url": f"{self.receiver.origin}/hook?of=us", "events": list(events), **changes}
        answer = await self.world.admin.post(f"/v1/federations/{federation}/webhooks", json=body)
        assert answer.status_code == code, answer.text
        return dict(answer.json())

    async def deliveries(self, webhook_id: str) -> list[dict[str, Any]]:
        return list((await self.world.admin.get(f"/v1/webhooks/{webhook_id}/deliveries")).json()["items"])


@pytest.fixture
async def hooks(world: World, receiver: Receiver) -> Any:
    sealer = Sealer.ensure(world.folder / "seal.key")
    object.__setattr__(world.use_cases, "webhooks", Webhooks(world.database, sealer, [receiver.origin]))
    async with httpx.AsyncClient(trust_env=False) as http:
        sender = WebhookSender(world.database, sealer, http, [receiver.origin], world.clock)
        yield Hooks(world, receiver, sender, sealer)


def checked(secret: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """The message, after a check as https://www.standardwebhooks.com describes it for receivers."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"].split(" ") == [f"v1,{expected}"]
    return dict(json.loads(body))


async def test_events_that_are_asked_for_arrive_signed(hooks: Hooks) -> None:
    """Nothing of another kind or federation, and no site's name or message."""
    world = hooks.world
    federation, other = await world.federation(), await world.federation("other")
    made = await hooks.make(federation, "job.created", "job.paused")
    await hooks.make(other, *EVENTS)
    await world.sites(federation)
    job = await world.job(federation)
    for act in ("pause", "resume", "pause"):
        assert (await world.admin.post(f"/v1/jobs/{job['id']}/{act}")).status_code == 200
    assert await hooks.sender.sweep() == 3
    assert await hooks.sender.sweep() == 0
    told = [checked(made["secret"], *one) for one in hooks.receiver.got]
    assert sorted(one["type"] for one in told) == ["job.created", "job.paused", "job.paused"]
    assert {one["data"]["job_id"] for one in told} == {job["id"]}
    assert {one["data"]["job_name"] for one in told} == {"heart disease"}
    assert all(set(one["data"]) <= {"federation_id", "job_id", "job_name", "event", "state", "reason"} for one in told)
    assert {one["state"] for one in await hooks.deliveries(made["id"])} == {"delivered"}
    assert made["secret"] not in (await world.admin.get(f"/v1/federations/{federation}/webhooks")).text


async def test_a_failed_attempt_is_made_again_with_the_same_bytes_until_a_day_has_passed(hooks: Hooks) -> None:
    """A redirect is a failure, and is not followed. Who administers may have what was given up tried again."""
    world, receiver = hooks.world, hooks.receiver
    made = await hooks.make(await world.federation(), "job.failed")
    assert (await world.admin.post(f"/v1/webhooks/{made['id']}/tests")).status_code == 201
    for status in (500, 307):
        receiver.status = status
        assert await hooks.sender.sweep() == 1
        assert await hooks.sender.sweep() == 0  # not before its time
        (delivery,) = await hooks.deliveries(made["id"])
        assert (delivery["state"], delivery["answer"]) == ("waiting", f"HTTP {status}")
        world.clock.advance(40)
    assert len(receiver.got) == 2
    assert receiver.got[0][1] == receiver.got[1][1]
    world.clock.advance(GIVEN_UP_AFTER.total_seconds())
    await hooks.sender.sweep()
    (delivery,) = await hooks.deliveries(made["id"])
    assert (delivery["state"], delivery["attempts"]) == ("dead", 3)
    (shown,) = (await world.admin.get(f"/v1/federations/{made['federation_id']}/webhooks")).json()["items"]
    assert (shown["waiting"], shown["dead"]) == (0, 1)
    world.clock.advance(3600)
    assert await hooks.sender.sweep() == 0
    receiver.status = 200
    again = (await world.admin.post(f"/v1/deliveries/{delivery['id']}/requeue")).json()
    assert again["state"] == "waiting"
    await hooks.sender.sweep()
    assert checked(made["secret"], *receiver.got[-1])["type"] == "webhook.test"
    assert (await world.admin.post(f"/v1/deliveries/{delivery['id']}/requeue")).json()["state"] == "delivered"
    world.clock.advance(31 * 86_400)
    await hooks.sender.tidy()
    assert await hooks.deliveries(made["id"]) == []


async def test_a_sender_that_dies_loses_nothing(hooks: Hooks) -> None:
    """What it had claimed is sent when the next attempt is due; a late word of the first attempt changes nothing."""
    world = hooks.world
    made = await hooks.make(await world.federation(), "job.failed")
    await world.admin.post(f"/v1/webhooks/{made['id']}/tests")
    (claimed,) = await world.database.run("claim", lambda tx: WebhookRepository(tx).claim(10))
    assert await hooks.sender.sweep() == 0
    world.clock.advance(6)
    assert await hooks.sender.sweep() == 0  # the attempt may still be on its way
    world.clock.advance(25)
    assert await hooks.sender.sweep() == 1
    dead = type(claimed.delivery.state).DEAD
    await world.database.run("late", lambda tx: WebhookRepository(tx).settle(claimed.delivery, dead, "late"))
    assert [(one["state"], one["attempts"]) for one in await hooks.deliveries(made["id"])] == [("delivered", 2)]


async def test_one_receiver_that_is_away_holds_up_no_other(hooks: Hooks, unused_tcp_port: int) -> None:
    world, federation = hooks.world, await hooks.world.federation()
    away = f"http://127.0.0.1:{unused_tcp_port}"
    world.use_cases.webhooks._allowed = frozenset({away, hooks.receiver.origin})
    hooks.sender._allowed = world.use_cases.webhooks._allowed
    gone, there = await hooks.make(federation, "job.failed", url=away), await hooks.make(federation, "job.failed")
    for made in (gone, there):
        await world.admin.post(f"/v1/webhooks/{made['id']}/tests")
    assert await hooks.sender.sweep() == 2
    assert [one["answer"] for one in await hooks.deliveries(gone["id"])] == ["ConnectError"]
    assert [one["state"] for one in await hooks.deliveries(there["id"])] == ["delivered"]


async def test_a_webhook_with_many_deliveries_holds_up_no_other(hooks: Hooks) -> None:
    """Of each webhook a few go first; what a deletion at the same moment left behind is neither sent nor kept."""
    world, federation = hooks.world, await hooks.world.federation()
    busy, other = await hooks.make(federation, "job.failed"), await hooks.make(federation, "job.failed")

    async def fill(tx: Any) -> None:
        for webhook_id in [*[busy["id"]] * 60, other["id"]]:
            await WebhookRepository(tx).enqueue(webhook_id, "webhook.test", None, None)

    await world.database.run("fill", fill)
    assert await hooks.sender.sweep() == MOST_OF_ONE + 1
    assert [one["state"] for one in await hooks.deliveries(other["id"])] == ["delivered"]
    assert (await world.admin.delete(f"/v1/webhooks/{busy['id']}")).status_code == 204
    await world.database.run("late", fill)
    assert await hooks.sender.sweep() == 1
    await hooks.sender.tidy()
    assert await hooks.deliveries(busy["id"]) == []


async def test_a_receiver_that_answers_byte_by_byte_is_left(hooks: Hooks) -> None:
    """Each byte comes within the time that a read may take; the attempt as a whole ends all the same."""

    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            for byte in b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    hooks.world.use_cases.webhooks._allowed = hooks.sender._allowed = frozenset({origin})
    hooks.sender._longest_s = 0.2
    made = await hooks.make(await hooks.world.federation(), "job.failed", url=origin)
    await hooks.world.admin.post(f"/v1/webhooks/{made['id']}/tests")
    await asyncio.wait_for(hooks.sender.sweep(), 5)
    (delivery,) = await hooks.deliveries(made["id"])
    assert (delivery["state"], delivery["answer"]) == ("waiting", "TimeoutError")
    server.close()


async def test_faults_of_a_webhook_are_told_together(hooks: Hooks) -> None:
    federation = await hooks.world.federation()
    refused = await hooks.make(
        federation, "job.faild", "job.failed", "job.failed", url="http://169.254.169.254/", code=422
    )
    assert {error["path"] for error in refused["errors"]} == {"/url", "/events", "/events/0"}
    assert "did you mean 'job.failed'" in str(refused)
    for _ in range(MOST):
        await hooks.make(federation, "job.failed")
    await hooks.make(federation, "job.failed", code=409)
    await hooks.make("fed_nowhere", "job.failed", code=404)


async def test_an_origin_that_is_no_longer_allowed_gets_nothing(hooks: Hooks) -> None:
    made = await hooks.make(await hooks.world.federation(), "job.failed")
    await hooks.world.admin.post(f"/v1/webhooks/{made['id']}/tests")
    hooks.sender._allowed = frozenset()
    await hooks.sender.sweep()
    assert hooks.receiver.got == []
    assert "WEBHOOK_ORIGINS" in (await hooks.deliveries(made["id"]))[0]["answer"]


async def test_a_deleted_webhook_gets_nothing_and_deleting_is_idempotent(hooks: Hooks) -> None:
    world = hooks.world
    made = await hooks.make(await world.federation(), "job.created")
    await world.admin.post(f"/v1/webhooks/{made['id']}/tests")
    for _ in range(2):
        assert (await world.admin.delete(f"/v1/webhooks/{made['id']}")).status_code == 204
    assert (await world.admin.post(f"/v1/webhooks/{made['id']}/tests")).status_code == 404
    assert await hooks.sender.sweep() == 0
    await hooks.sender.tidy()


async def test_the_secret_is_shown_again_to_a_repeated_request_only_and_survives_new_seal_keys(hooks: Hooks) -> None:
    world, federation = hooks.world, await hooks.world.federation()
    body = {"url": hooks.receiver.origin, "events": ["job.failed"]}
    path, key = f"/v1/federations/{federation}/webhooks", {"idempotency-key": "one-webhook"}
    first, again = [(await world.admin.post(path, json=body, headers=key)).json() for _ in range(2)]
    assert first == again
    for _ in range(3):
        add_key(world.folder / "seal.key")
        await hooks.sender.tidy()
        drop_old_keys(world.folder / "seal.key")
    await world.admin.post(f"/v1/webhooks/{first['id']}/tests")
    await hooks.sender.sweep()
    checked(first["secret"], *hooks.receiver.got[-1])


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org.evil.example/",
        "https://hooks.example.org@evil.example/",
        "https://user:pass@hooks.example.org/",
        "https://hooks.example.org:8443/",
        "http://hooks.example.org/",
        "https://hooks.example.org/#here",
        "https://hooks.example.org/ here",
        "https://hooks.example.org/\n",
        "file:///etc/passwd",
        "https://[::1",
        "https://hooks.example.org:port/",
        "",
    ],
)
def test_addresses_outside_the_allowed_origins_are_refused(url: str) -> None:
    assert refusal_of(url, ["https://hooks.example.org"])
    assert refusal_of("https://HOOKS.example.org:443/a?b=c", ["https://hooks.example.org"]) is None


def test_a_setting_that_is_no_origin_is_refused() -> None:
    assert CoordinatorSettings(webhook_origins="https://a.example, http://[::1]:8080").allowed_origins == (
        "https://a.example",
        "http://[::1]:8080",
    )
    for wrong in ("https://a.example/", "a.example", "https://a.example:443", "ftp://a.example"):
        with pytest.raises(ValueError, match="webhook_origins"):
            CoordinatorSettings(webhook_origins=wrong)
