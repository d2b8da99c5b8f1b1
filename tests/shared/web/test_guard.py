"""What the framework lets through by default and our door does not."""

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from fastapi import FastAPI

from undersong.shared.identity.requests import SigningAuth

JSON = {"content-type": "application/json"}
URL = "/v1/things/a"


def reason(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json", response.text
    document = response.json()
    assert document["status"] == response.status_code
    assert document["title"]
    assert document["request_id"] == response.headers["x-request-id"]
    return str(document["type"]).removeprefix("urn:undersong:problem:")


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        (b'{"name": "a", "size": NaN}', 422, "unsafe-json"),
        (b'{"name": "a", "size": Infinity}', 422, "unsafe-json"),
        (b'{"name": "a", "size": -Infinity}', 422, "unsafe-json"),
        (b'{"name": "a", "size": 1e999}', 422, "unsafe-json"),
        (b'{"name": "a\\u0000b"}', 422, "unsafe-json"),
        (b'{"\\u0000": 1, "name": "a"}', 422, "unsafe-json"),
        (b'{"name": "\\ud800"}', 422, "unsafe-json"),
        (b'{"name": "\\udfff x"}', 422, "unsafe-json"),
        (b'{"name": "a", "name": "b"}', 422, "unsafe-json"),
        (b'{"name": "a", "count": 99999999999999999999}', 422, "unsafe-json"),
        (b'{"name": "a", "count": ' + b"9" * 5000 + b"}", 400, "bad-request"),
        (b"[" * 40 + b"]" * 40, 422, "unsafe-json"),
        (b"[" * 200_000 + b"]" * 200_000, 422, "unsafe-json"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 422, "unsafe-json"),
        (b'{"name": "a"', 400, "bad-request"),
        (b'{"name": "\xed\xa0\x80"}', 400, "bad-request"),
        (b'{"name": "\xff"}', 400, "bad-request"),
        ('{"name": "a"}'.encode("utf-16"), 400, "bad-request"),
        ('{"name": "a"}'.encode("utf-16-be"), 400, "bad-request"),
        (b"\xef\xbb\xbf{}", 400, "bad-request"),
        (b'{"name": "taken"}', 409, "thing-taken"),
        (b'{"name": 1}', 422, "request-invalid"),
        (b"null", 422, "request-invalid"),
        (b"", 422, "request-invalid"),
    ],
)
async def test_json_that_is_refused(client: httpx.AsyncClient, body: bytes, status: int, slug: str) -> None:
    response = await client.post(URL, content=body, headers=JSON)
    assert (response.status_code, reason(response)) == (status, slug)


@pytest.mark.parametrize("name", ["a", "ä", "𝄞", "\U0010ffff", "tab\t", ""])
async def test_proper_text_passes(client: httpx.AsyncClient, name: str) -> None:
    for body in (json.dumps({"name": name}), json.dumps({"name": name}, ensure_ascii=False)):
        response = await client.post(URL, content=body.encode(), headers=JSON)
        assert response.status_code == 201
        assert response.json()["name"] == name


async def test_an_announced_json_body_over_the_limit_is_refused_unread(app: FastAPI) -> None:
    reads = 0

    async def receive() -> dict[str, object]:
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": b"{", "more_body": True}

    status, _ = await call(app, receive, {b"content-length": b"2000000"})
    assert (status, reads) == (413, 0)


async def test_a_chunked_json_body_over_the_limit_is_refused_in_time(app: FastAPI) -> None:
    reads = 0

    async def receive() -> dict[str, object]:
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": b" " * 65_536, "more_body": True}

    status, document = await call(app, receive, {b"transfer-encoding": b"chunked"})
    assert status == 413
    assert document["type"].endswith(":too-large")
    assert reads == 17


@pytest.mark.parametrize(("announced", "sent"), [(10, 3), (3, 10), (13, 0)])
async def test_a_lying_length_is_refused(app: FastAPI, announced: int, sent: int) -> None:
    messages = [{"type": "http.request", "body": b" " * sent, "more_body": False}]

    async def receive() -> dict[str, object]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    status, document = await call(app, receive, {b"content-length": str(announced).encode()})
    assert status == 400
    assert document["type"].endswith(":body-incomplete")


async def test_a_sender_who_goes_away_is_no_error_of_ours(app: FastAPI) -> None:
    messages: list[dict[str, object]] = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> dict[str, object]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    status, _ = await call(app, receive, {b"content-length": b"100"})
    assert status == 400


@pytest.mark.parametrize("length", [b"-1", b"1.5", b"abc", b"1" * 30, "١".encode()])
async def test_a_length_that_is_no_number_is_refused(app: FastAPI, length: bytes) -> None:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    assert (await call(app, receive, {b"content-length": length}))[0] == 411


@pytest.mark.parametrize("coding", ["gzip", "zstd", "br", "deflate", "gzip, identity"])
async def test_compressed_bodies_are_refused(client: httpx.AsyncClient, coding: str) -> None:
    response = await client.post(URL, content=b"x", headers=JSON | {"content-encoding": coding})
    assert (response.status_code, reason(response)) == (415, "content-encoding-refused")


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "application/x-www-form-urlencoded"])
async def test_another_media_type_on_a_json_route(client: httpx.AsyncClient, kind: str) -> None:
    small = await client.post(URL, content=b'{"name": "a"}', headers={"content-type": kind})
    large = await client.post(URL, content=b"x" * 2_000_000, headers={"content-type": kind})
    assert (small.status_code, reason(small)) == (422, "request-invalid")
    assert (large.status_code, reason(large)) == (413, "too-large")


@pytest.mark.parametrize("address", ["/v1/things?name=%00", "/v1/things/a%00b"])
async def test_nul_in_the_address_is_refused(client: httpx.AsyncClient, address: str) -> None:
    response = await client.get(address)
    assert (response.status_code, reason(response)) == (400, "bad-request")


async def test_a_binary_route_takes_more_than_the_json_limit(client: httpx.AsyncClient) -> None:
    assert (await client.put("/v1/blob", content=b"x" * 3_000_000)).json() == {"size": 3_000_000}


async def test_a_binary_route_has_its_own_limit(client: httpx.AsyncClient) -> None:
    response = await client.put("/v1/blob", content=b"x" * 5_000_001)
    assert (response.status_code, reason(response)) == (413, "too-large")


async def test_a_binary_body_without_length_is_refused(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"abc"

    response = await client.put("/v1/blob", content=chunks())
    assert (response.status_code, reason(response)) == (411, "length-required")


async def test_an_unsigned_digest_is_checked_too(client: httpx.AsyncClient) -> None:
    wrong = {"content-digest": "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"}
    for response in (
        await client.put("/v1/blob", content=b"abc", headers=wrong),
        await client.post(URL, content=b"{}", headers=JSON | wrong),
    ):
        assert (response.status_code, reason(response)) == (400, "digest-mismatch")


@pytest.mark.parametrize("form", ["sha-256=:AAAA:", "SHA-256=:{0}:", "sha-256 = :{0}:", "sha-256=:{0}:;x=1",
                                  "sha-256=:{0}:, sha-256=:{0}:", "sha-256={0}"])  # fmt: skip
async def test_a_digest_that_would_not_be_compared_is_refused(client: httpx.AsyncClient, form: str) -> None:
    announced = {"content-digest": form.format("X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=")}
    for response in (
        await client.put("/v1/blob", content=b"abc", headers=announced),
        await client.post(URL, content=b"{}", headers=JSON | announced),
    ):
        assert (response.status_code, reason(response)) == (400, "digest-unreadable")


async def test_a_body_exchanged_under_a_signed_digest_is_refused(
    client: httpx.AsyncClient, signer: Callable[..., SigningAuth]
) -> None:
    """The headers are another's, the body is mine: JSON and binary alike."""
    for method, path, honest, kind in [
        ("POST", "/v1/site", b'{"name": "good"}', "application/json"),
        ("PUT", "/v1/blob", b"good", "application/octet-stream"),
    ]:
        request = client.build_request(method, path, content=honest, headers={"content-type": kind})
        request = next(signer().sync_auth_flow(request))
        evil = honest.replace(b"good", b"evil")
        response = await client.request(method, path, content=evil, headers=request.headers)
        assert (response.status_code, reason(response)) == (400, "digest-mismatch")


async def test_a_bad_signature_is_refused_before_the_body_is_read(app: FastAPI) -> None:
    async def receive() -> dict[str, object]:
        raise AssertionError("the body was read")

    headers = {b"content-length": b"10", b"signature-input": b"x", b"signature": b"y"}
    status, document = await call(app, receive, headers)
    assert status == 401
    assert document["type"].endswith(":signature-invalid")


async def test_without_a_verifier_signed_requests_wait(
    app: FastAPI, client: httpx.AsyncClient, signer: Callable[..., SigningAuth]
) -> None:
    app.state.verifier = None
    response = await client.get("/v1/site", auth=signer())
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"


class Server:
    """Holds its request's scope, as the real one does."""

    scope: dict[str, object]

    async def receive(self) -> dict[str, object]:
        return {"type": "http.request", "body": b'{"name": "a"}', "more_body": False}


async def test_a_request_leaves_no_cycle_behind(app: FastAPI) -> None:
    """Cycles of requests that waited long are found only by full collections, which stop the process."""
    server = Server()
    kept = weakref.ref(server)
    gc.disable()
    try:
        await call(app, server.receive, {b"content-length": b"13"}, server)
        assert server.scope["path"] == URL
        del server
        assert kept() is None
    finally:
        gc.enable()


async def call(
    app: FastAPI, receive: Callable[..., object], headers: dict[bytes, bytes], server: Server | None = None
) -> tuple[int, dict[str, str]]:
    """One raw ASGI request to the JSON route, with just these headers."""
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": URL,
        "raw_path": URL.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), *headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
    }
    if server is not None:
        server.scope = scope
    async with asyncio.timeout(60):
        await app(scope, receive, send)  # type: ignore[arg-type]
    return int(str(sent[0]["status"])), json.loads(b"".join(bytes(m.get("body", b"")) for m in sent[1:]))  # type: ignore[call-overload]
