"""A small application with every kind of route, and clients for it."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Annotated

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel

from undersong.shared.clock import utc_now
from undersong.shared.errors import Conflict, FieldError, TooMany
from undersong.shared.identity.authority import CertificateAuthority, Identity, Subject
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.identity.verify import MemoryNonces, PartyVerifier
from undersong.shared.web.access import Actor, Caller, Grant, Principal, Role, SiteParty, require, service_party
from undersong.shared.web.app import create_app
from undersong.shared.web.body import receive
from undersong.shared.web.problems import problems


class Thing(BaseModel):
    name: str
    size: float = 0
    count: int = 0


class ThingTaken(Conflict):
    """There is a thing of this name."""


router = APIRouter(prefix="/v1")


@router.post("/things/{thing_id}", status_code=201, responses=problems(ThingTaken))
async def make_thing(thing_id: str, thing: Thing) -> Thing:
    """Make a thing."""
    if thing.name == "taken":
        raise ThingTaken("taken", errors=[FieldError("/name", "taken")])
    return thing


@router.get("/things")
async def list_things(limit: int = 10, name: str = "") -> dict[str, object]:
    return {"limit": limit, "name": name}


@router.put("/blob")
async def put_blob(request: Request) -> dict[str, int]:
    return {"size": sum([len(chunk) async for chunk in receive(request, 5_000_000)])}


@router.get("/boom")
async def boom() -> None:
    raise RuntimeError("the secret is zebra-finch")


@router.get("/busy")
async def busy() -> None:
    raise TooMany("slowly", retry_after_s=0.2, limit=7)


@router.get("/person")
async def person(caller: Caller) -> str:
    return caller.name


@router.get("/scientist")
async def scientist(caller: Annotated[Principal, Depends(require("scientist"))]) -> str:
    return caller.name


@router.get("/site")
async def site(party: SiteParty) -> str:
    return party.name


@router.post("/site")
async def site_post(party: SiteParty, thing: Thing) -> str:
    return f"{party.name} {thing.name}"


@router.get("/coordinator")
async def coordinator(party: Annotated[object, Depends(service_party("coordinator"))]) -> str:
    return "yes"


@router.get("/actor")
async def any_actor(actor: Actor) -> str:
    return type(actor).__name__


class Tokens:
    people = {  # noqa: RUF012
        "ust_ada": Principal("usr_ada", "ada", (Grant(Role.SCIENTIST, "fed_x"),)),
        "ust_bob": Principal("usr_bob", "bob", (Grant(Role.AUDITOR),)),
        "ust_root": Principal("usr_root", "root", (Grant(Role.ADMIN),)),
    }

    async def lookup(self, token: str) -> Principal | None:
        return self.people.get(token)


class NoneRevoked:
    def revoked(self, keyid: str) -> bool:
        return False


@pytest.fixture(scope="session")
def ca() -> CertificateAuthority:
    return CertificateAuthority.create(utc_now())


@pytest.fixture
def app(ca: CertificateAuthority) -> FastAPI:
    app = create_app(title="Test", service="test", routers=[router])
    app.state.tokens = Tokens()
    app.state.verifier = PartyVerifier(ca.certificate, "test", MemoryNonces(), NoneRevoked())
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture(scope="session")
def signer(ca: CertificateAuthority) -> Callable[..., SigningAuth]:
    def make(subject: Subject | None = None, audience: str = "test") -> SigningAuth:
        key, now = Ed25519PrivateKey.generate(), utc_now()
        named = subject or Subject("site", "site_a", "fed_x")
        certificate = ca.issue(key.public_key(), named, now + timedelta(days=1), now=now)
        return SigningAuth(Identity(key, certificate, ca.certificate), audience)

    return make
