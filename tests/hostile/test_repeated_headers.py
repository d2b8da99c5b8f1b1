"""A header field that may come once and comes twice is refused by every operation of every service.

Two readers of one request may each believe another of the two lines: once the check of a body read one
``Content-Type`` and the framework the other, and nothing of the body was checked.
"""

import hashlib
import random
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tests.effort import examples
from tests.hostile.stage import SERVICES
from undersong.openapi import application
from undersong.shared.clock import utc_now
from undersong.shared.identity.authority import CertificateAuthority, Identity, Subject
from undersong.shared.identity.digests import content_digest
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.identity.verify import MemoryNonces, PartyVerifier
from undersong.shared.web.access import SiteParty
from undersong.shared.web.app import create_app
from undersong.shared.web.body import arrived_digest, receive
from undersong.shared.web.guard import LISTS

SINGLE = (
    "authorization", "content-digest", "content-encoding", "content-length", "content-type", "cookie", "etag", "expect",
    "host", "hx-request", "idempotency-key", "if-match", "if-none-match", "if-range", "last-event-id", "origin",
    "range", "referer", "sec-fetch-site", "signature", "signature-input", "traceparent", "transfer-encoding",
    "undersong-certificate", "update-signature", "user-agent", "x-forwarded-proto", "x-made-up", "x-request-id",
)  # fmt: skip
"""What the services and the framework read, and what neither reads."""
Headers = list[tuple[bytes, bytes]]


def reason(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return str(response.json()["type"]).removeprefix("urn:undersong:problem:")


async def send(app: FastAPI, method: str, path: str, headers: Headers, content: bytes = b"") -> httpx.Response:
    """Send the request with just these header lines."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
        return await http.send(httpx.Request(method, f"http://t{path}", headers=headers, content=content))


def operations(app: FastAPI) -> list[tuple[str, str]]:
    found = {(method, r.path) for r in routes(app.routes) for method in r.methods or ()}
    return sorted(found)


def routes(known: list[object]) -> list[APIRoute]:
    """All routes, also those that the published description leaves out."""
    found: list[APIRoute] = []
    for route in known:
        if isinstance(route, APIRoute):
            found.append(route)
        else:
            found += routes(list(getattr(getattr(route, "original_router", route), "routes", None) or []))
    return found


@pytest.mark.parametrize("service", SERVICES)
async def test_every_operation_refuses_every_repeated_field(service: str, tmp_path: Path) -> None:
    app, draw = application(service, tmp_path), random.Random(11)
    asked = operations(app)
    described = {(m.upper(), path) for path, found in app.openapi()["paths"].items() for m in found}
    assert described <= set(asked)
    for method, path in asked:
        for name in SINGLE:
            lines = [(name.encode(), draw.choice([b"a", b"b", b"application/json", b"0", b""])) for _ in range(2)]
            spelt = [(draw.choice([one.title(), one.upper(), one]), value) for one, value in lines]
            around: Headers = [(b"accept", b"*/*"), (b"via", b"1.1 one"), (b"via", b"1.1 two")]
            mixed = draw.sample([*spelt, *around], len(spelt) + len(around))
            refused = await send(app, method, path, mixed)
            assert (refused.status_code, reason(refused)) == (400, "header-repeated"), f"{method} {path} {name}"


class Document(BaseModel):
    amount: float


router = APIRouter()


@router.post("/json")
async def take_json(document: Document, site: SiteParty) -> dict[str, float]:
    return {"amount": document.amount}


@router.post("/raw")
async def take_raw(request: Request, site: SiteParty) -> str:
    return (await request.body()).decode("latin-1")


@router.post("/stream")
async def take_stream(request: Request, site: SiteParty) -> int:
    return sum([len(chunk) async for chunk in receive(request, 1000)])


@router.post("/digest")
async def take_digest(request: Request, site: SiteParty) -> str | None:
    return await arrived_digest(request)


class Nothing:
    def revoked(self, _keyid: str) -> bool:
        return False


@pytest.fixture(scope="module")
def identity() -> Identity:
    now = utc_now()
    authority, key = CertificateAuthority.create(now), Ed25519PrivateKey.generate()
    subject = Subject("site", "site_a", "fed_a")
    certificate = authority.issue(key.public_key(), subject, now + timedelta(days=1), now=now)
    return Identity(key, certificate, authority.certificate)


@pytest.fixture(scope="module")
def app(identity: Identity) -> FastAPI:
    made = create_app(title="t", service="coordinator", routers=[router])
    made.state.verifier = PartyVerifier(identity.ca_certificate, "coordinator", MemoryNonces(), Nothing())
    return made


def signed(identity: Identity, path: str, content: bytes, headers: dict[str, str]) -> Headers:
    """The header lines of an honest request."""
    request = httpx.Request("POST", f"http://t{path}", content=content, headers=headers)
    return list(next(SigningAuth(identity, "coordinator").sync_auth_flow(request)).headers.raw)


def replaced(headers: Headers, name: bytes, *values: bytes) -> Headers:
    return [(n, v) for n, v in headers if n.lower() != name] + [(name, value) for value in values]


KINDS = {
    "/json": "application/json",
    "/raw": "application/x-www-form-urlencoded",
    "/stream": "application/octet-stream",
    "/digest": "text/plain",
}


@pytest.mark.parametrize("path", KINDS)
async def test_a_signed_body_cannot_be_exchanged_whoever_reads_it(app: FastAPI, identity: Identity, path: str) -> None:
    """Under one media type, under two, under another: neither another body nor another reading of it gets through."""
    kind, good, evil = KINDS[path], b'{"amount": 1}', b'{"amount": 666}'
    assert (await send(app, "POST", path, signed(identity, path, good, {"content-type": kind}), good)).is_success
    for types in ([kind], [kind, "text/plain"], ["text/plain", kind], ["application/json"], [], ["a/b+json"]):
        for body in (good, evil, b""):
            headers = signed(identity, path, good, {"content-type": kind})
            sent = replaced(headers, b"content-type", *(one.encode() for one in types))
            exchanged = replaced(sent, b"content-length", str(len(body)).encode())
            answer = await send(app, "POST", path, exchanged, body)
            if types == [kind] and body == good:
                assert answer.is_success
            else:
                assert answer.status_code in (400, 401), (types, body, answer.text)
                assert reason(answer) in {"header-repeated", "digest-mismatch", "signature-invalid"}


@pytest.mark.parametrize(
    "evil", [b'{"amount": NaN}', b'{"amount": 1, "amount": 2}', b'{"amount": 1, "x": ' + b"[" * 5000]
)
async def test_json_is_checked_under_every_media_type_that_the_framework_parses(
    app: FastAPI, identity: Identity, evil: bytes
) -> None:
    for types in (["application/json", "text/plain"], ["text/plain", "application/json"], ["application/json"] * 2):
        headers = signed(identity, "/json", evil, {"content-type": "application/json"})
        answer = await send(
            app, "POST", "/json", replaced(headers, b"content-type", *(t.encode() for t in types)), evil
        )
        assert reason(answer) == "header-repeated"
    for kind in ("application/json", "APPLICATION/JSON ; charset=utf-8", "application/x+json", " application/json;a=b"):
        answer = await send(app, "POST", "/json", signed(identity, "/json", evil, {"content-type": kind}), evil)
        assert reason(answer) in {"unsafe-json", "bad-request"}, kind


MEDIA = st.sampled_from(
    ["application/json", "Application/Json", "application/x+json", "text/json", "a/b", "", "/", ";"]
)
EXTRA = st.sampled_from(["", ";", "; charset=utf-8", " ", "\t", ';a="b;c"', "/", "+json", ", text/plain"])


@settings(deadline=None, max_examples=examples(200))
@given(media=MEDIA, extra=EXTRA, before=st.sampled_from(["", " ", "\t"]))
async def test_the_framework_never_parses_json_that_was_not_checked(media: str, extra: str, before: str) -> None:
    """Whatever the media type looks like: a body that the check would refuse never reaches a route."""
    made = create_app(title="t", service="t", routers=[open_router])
    kind = (before + media + extra).encode()
    answer = await send(
        made, "POST", "/open", [(b"content-type", kind), (b"content-length", b"17")], b'{"amount": 1e999}'
    )
    assert answer.status_code in (400, 415, 422), answer.text


open_router = APIRouter()


@open_router.post("/open")
async def take_open(document: Document) -> dict[str, float]:
    return {"amount": document.amount}


@pytest.mark.parametrize("name", ["idempotency-key", "content-type"])
async def test_what_decides_a_requests_meaning_is_signed(app: FastAPI, identity: Identity, name: str) -> None:
    """Neither another value, nor none, nor one where there was none."""
    given = {"content-type": "application/json", "idempotency-key": "mine"}
    body = b'{"amount": 1}'
    for honest, sent in ((given, b"theirs"), (given, None), ({"content-type": "application/json"}, b"theirs")):
        headers = signed(identity, "/json", body, honest)
        changed = replaced(headers, name.encode(), *([] if sent is None else [sent]))
        answer = await send(app, "POST", "/json", changed, body)
        assert (answer.status_code, reason(answer)) == (401, "signature-invalid")


async def test_idempotency_counts_what_came_not_what_was_announced(app: FastAPI, identity: Identity) -> None:
    body = b"as it came"
    answer = await send(app, "POST", "/digest", signed(identity, "/digest", body, {"content-type": "a/b"}), body)
    assert answer.json() == hashlib.sha256(body).hexdigest()
    lying: Headers = [(b"content-digest", content_digest(b"other").encode()), (b"content-length", b"10")]
    bare = create_app(title="t", service="t", routers=[unsigned_router])
    assert reason(await send(bare, "POST", "/unsigned", lying, body)) == "digest-mismatch"
    assert (await send(bare, "POST", "/unsigned", lying[1:], body)).json() == hashlib.sha256(body).hexdigest()


unsigned_router = APIRouter()


@unsigned_router.post("/unsigned")
async def take_unsigned(request: Request) -> str | None:
    return await arrived_digest(request)


def test_lists_are_documented_as_lists() -> None:
    """No field that a service reads may be among those that may come in several lines."""
    assert set(SINGLE).isdisjoint(LISTS)
