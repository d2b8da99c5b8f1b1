"""A server process without an edge before it: slow, huge and broken requests, and callers who ask too much."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest

from tests.hostile.fuzzing import check_problem
from tests.pace import Deadline
from undersong.local.layout import free_port

pytestmark = pytest.mark.process
SERVER = """
import asyncio, sys
from fastapi import APIRouter, Request
from undersong.shared.web import body, connection
from undersong.shared.web.access import Caller, Grant, Principal, Role
from undersong.shared.web.app import create_app
from undersong.shared.web.body import receive
from undersong.shared.web.limits import Limits
from undersong.shared.web.server import serve

connection.HEAD_S = connection.SILENT_S = connection.LINGER_S = body.STALL_S = 1.0
router = APIRouter()

@router.post("/json")
async def take_json(document: dict[str, int]) -> int:
    return len(document)

@router.put("/blob")
async def take_blob(request: Request) -> int:
    return sum([len(chunk) async for chunk in receive(request, 1 << 20)])

@router.get("/me")
async def me(caller: Caller) -> str:
    return caller.name

@router.get("/wait")
async def wait(request: Request) -> str:
    while not await request.is_disconnected():
        await asyncio.sleep(0.05)
    return "gone"

class Tokens:
    async def lookup(self, token):
        return Principal(token, token, (Grant(Role.ADMIN),)) if token.startswith("ust_good") else None

app = create_app(title="T", service="t", routers=[router])
app.state.tokens = Tokens()
few = {"rate_per_s": 1, "burst": 10, "anonymous_rate_per_s": 0, "failures_per_s": 0.5, "failure_burst": 5}
limits = Limits(**few, requests_at_once=20)
serve(app, "127.0.0.1", int(sys.argv[1]), limits=limits)
"""


@dataclass
class Door:
    port: int
    process: psutil.Process

    def connect(self, data: bytes = b"") -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        made.sendall(data)
        return made

    def say(self, data: bytes) -> httpx.Response:
        """Send raw bytes, and read the one answer."""
        with self.connect(data) as line:
            return answer(line)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, trust_env=False, timeout=20)


def answer(line: socket.socket) -> httpx.Response:
    text = b""
    while b"\r\n\r\n" not in text:
        part = line.recv(65536)
        assert part, f"the connection ended after {text!r}"
        text += part
    head, _, body = text.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += line.recv(65536)
    return httpx.Response(int(first.split(" ")[1]), headers=headers, content=body)


def closed(line: socket.socket) -> bytes:
    """All that still comes until the other side closes."""
    said = b""
    while True:
        try:
            part = line.recv(65536)
        except ConnectionResetError:
            return said
        if not part:
            return said
        said += part


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    port = free_port()
    running = subprocess.Popen([sys.executable, "-c", SERVER, str(port)])
    made = Door(port, psutil.Process(running.pid))
    try:
        for _ in range(600):
            try:
                if made.get("/health/live").is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        yield made
        running.send_signal(signal.SIGTERM)
        running.wait(30)
    finally:
        running.kill()
        running.wait()


def refusal(response: httpx.Response) -> str:
    """The reason; bare connections have no request id."""
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = json.loads(response.content)
    assert document["status"] == response.status_code
    return str(document["type"]).rsplit(":", 1)[-1]


def test_slow_heads_and_bodies_are_ended_while_others_are_served(door: Door) -> None:
    heads = [door.connect(b"GET /health/live HTTP/1.1\r\nhost: x\r\nx-slow: ") for _ in range(300)]
    bodies = [door.connect(b"POST /json HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                           b"content-length: 100\r\n\r\n{") for _ in range(15)]  # fmt: skip
    silent = door.connect()
    for line in heads[:20]:
        line.sendall(b"a")  # a byte now and then does not help
    assert door.get("/health/live").status_code == 200
    for line in heads:
        assert b" 408 " in closed(line)
        line.close()
    assert {(one.status_code, refusal(one)) for one in map(answer, bodies)} == {(408, "body-stalled")}
    assert closed(silent) == b""
    silent.close()
    for line in bodies:
        assert closed(line) == b""
        line.close()


def test_a_body_that_drips_is_ended(door: Door) -> None:
    """A byte well within each part's time does not keep a body open: the whole has a slowest pace too."""
    line = door.connect(b"POST /json HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                        b"content-length: 100000\r\n\r\n{")  # fmt: skip
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.2):
            with suppress(OSError):
                line.send(b" ")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        found = answer(line)
        assert (found.status_code, refusal(found)) == (408, "body-stalled")
    finally:
        stop.set()
        dripping.join()
        line.close()


@pytest.mark.parametrize(
    ("head", "status", "reason"),
    [
        (b"x-big: " + b"a" * 200_000, 431, "head-too-large"),
        (b"\r\n".join(b"x-%d: a" % n for n in range(20_000)), 431, "head-too-large"),
        (b"no colon here at all", 400, "bad-request"),
        (b"content-length: 5\r\ncontent-length: 6", 400, "bad-request"),
        (b"content-length: 5\r\ntransfer-encoding: chunked", 400, "bad-request"),
        (b"content-length: -5", 400, "bad-request"),
        (b"content-type: application/json\r\ncontent-length: 1073741824", 413, "too-large"),
        (b"content-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 100", 415,
         "content-encoding-refused"),
        (b"content-type: application/json\r\ncontent-encoding: zstd\r\ncontent-length: 100", 415,
         "content-encoding-refused"),
    ],
)  # fmt: skip
def test_heads_that_are_refused(door: Door, head: bytes, status: int, reason: str) -> None:
    found = door.say(b"POST /json HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n\r\n")
    assert (found.status_code, refusal(found)) == (status, reason)


@pytest.mark.parametrize("line", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
                                  b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n"])  # fmt: skip
def test_what_is_no_request_gets_a_problem_document(door: Door, line: bytes) -> None:
    assert refusal(door.say(line)) in {"bad-request", "head-too-large"}


def test_endless_and_lying_bodies_cost_no_memory(door: Door) -> None:
    before = door.process.memory_info().rss
    head = b"POST /json HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with door.connect(head + b"transfer-encoding: chunked\r\n\r\n") as line:
        sent = 0
        try:
            for _ in range(4000):  # 256 MiB, if it were let
                line.sendall(chunk)
                sent += 65536
        except OSError:
            pass
        found = closed(line)
    assert b" 413 " in found or sent < 64 << 20  # told, or cut off while still sending
    with door.connect(head + b"content-length: 100\r\n\r\n{") as line:  # less than announced, and gone
        line.shutdown(socket.SHUT_WR)
        closed(line)
    put = b"PUT /blob HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n"
    assert refusal(door.say(put + b"content-length: 1073741824\r\n\r\n")) == "too-large"
    assert refusal(door.say(put + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n")) == "length-required"
    assert door.process.memory_info().rss - before < 50 << 20
    assert door.get("/health/live").status_code == 200


def test_a_token_that_floods_waits_and_no_other(door: Door) -> None:
    flood = [door.get("/me", authorization="Bearer ust_good_flood") for _ in range(30)]
    refused = [one for one in flood if one.status_code == 429]
    assert 5 <= len(refused) <= 20
    assert {one.status_code for one in flood} == {200, 429}
    assert check_problem(refused[0]).type.endswith(":rate-limited")
    assert int(refused[-1].headers["retry-after"]) >= 1
    assert door.get("/me", authorization="Bearer ust_good_other").status_code == 200
    time.sleep(int(refused[-1].headers["retry-after"]) + 0.1)
    assert door.get("/me", authorization="Bearer ust_good_flood").status_code == 200


def test_guessing_tokens_is_slowed_down_and_does_not_shut_others_out(door: Door) -> None:
    assert door.get("/me", authorization="Bearer ust_good_known").status_code == 200
    guesses: list[int] = []
    while guesses.count(429) < 3:  # on a loaded machine one more is let through now and then
        guesses.append(door.get("/me", authorization=f"Bearer ust_bad_{len(guesses)}").status_code)
        assert len(guesses) < 100
    assert guesses[:3] == [401] * 3
    assert set(guesses) == {401, 429}
    assert door.get("/me", authorization="Bearer ust_good_known").status_code == 200


def test_more_than_the_process_takes_is_refused_and_probes_are_not(door: Door) -> None:
    waiting = [door.connect(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n") for _ in range(20)]
    until = Deadline(60)
    while (found := door.say(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).status_code != 503:
        assert not until.over()
    assert refusal(found) == "overloaded"
    assert int(found.headers["retry-after"]) >= 1
    assert door.get("/health/live").status_code == 200
    for line in waiting:
        line.close()
    while door.get("/openapi.json").status_code != 200:
        assert not until.over()
