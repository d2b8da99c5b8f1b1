"""Tokens with scopes: what they open, what they can make, and what a session's tokens can."""

import httpx
import pytest
from sqlalchemy import text

from tests.services.coordinator.world import World
from undersong.shared.database import Transaction


async def token(client: httpx.AsyncClient, world: World, **body: object) -> httpx.AsyncClient:
    answer = await client.post("/v1/tokens", json={"name": "narrow", **body})
    assert answer.status_code == 201, answer.text
    return world.client(authorization=f"Bearer {answer.json()['token']}")


async def test_a_token_opens_what_its_scopes_name(small_world: World) -> None:
    world = small_world
    federation = await world.federation()
    reads = await token(world.admin, world, scopes=["jobs:read"])
    assert (await reads.get("/v1/jobs")).status_code == 200
    assert (await reads.get("/v1/me")).json()["name"] == "admin"
    refused = await reads.post("/v1/jobs/job_1/pause")
    assert (refused.status_code, refused.json()["type"].rsplit(":", 1)[-1]) == (403, "scope-missing")
    assert "jobs:write" in refused.json()["detail"]
    assert (await reads.get(f"/v1/federations/{federation}")).status_code == 403
    listed = (await world.admin.get("/v1/tokens")).json()["items"]
    assert [found["scopes"] for found in listed if found["name"] == "narrow"] == [["jobs:read"]]
    secret = reads.headers["authorization"].removeprefix("Bearer ")
    told = (await world.service("registry").post("/v1/introspections", json={"token": secret})).json()
    assert told["scopes"] == ["jobs:read"]


async def test_a_scope_takes_nothing_from_a_role_and_adds_nothing(small_world: World) -> None:
    world = small_world
    federation = await world.federation()
    auditor = await world.person("eve", ("auditor", federation))
    wide = await token(auditor, world, scopes=["accounts:write", "jobs:write"])
    assert (await wide.post("/v1/users", json={"name": "x", "roles": [{"role": "admin"}]})).status_code == 403
    assert (await wide.get("/v1/jobs")).status_code == 200


async def test_a_token_makes_tokens_within_its_own_scopes(small_world: World) -> None:
    world = small_world
    await world.federation()
    maker = await token(world.admin, world, scopes=["accounts:write", "jobs:write"])
    child = (await maker.post("/v1/tokens", json={"name": "child", "scopes": ["jobs:read"]})).json()
    assert child["scopes"] == ["jobs:read"]
    same = (await maker.post("/v1/tokens", json={"name": "same"})).json()
    assert same["scopes"] == ["accounts:write", "jobs:write"]
    beyond = await maker.post("/v1/tokens", json={"name": "beyond", "scopes": ["models:read"]})
    assert (beyond.status_code, beyond.json()["type"].rsplit(":", 1)[-1]) == (403, "scopes-exceeded")


@pytest.mark.parametrize("scopes", [[], ["jobs:all"], ["JOBS:READ"], "jobs:read", ["jobs:read"] * 11])
async def test_what_is_no_list_of_scopes_is_refused(small_world: World, scopes: object) -> None:
    answer = await small_world.admin.post("/v1/tokens", json={"name": "odd", "scopes": scopes})
    assert answer.status_code == 422, answer.text


async def test_what_a_session_makes_for_its_person_ends_with_it(small_world: World) -> None:
    world = small_world
    await world.federation()
    session = await token(world.admin, world, expires_in_s=3600)

    async def as_by_sign_on(tx: Transaction) -> None:
        await tx.session.execute(text("UPDATE tokens SET sign_on = true WHERE expires_at IS NOT NULL"))

    await world.database.run("test.sign_on", as_by_sign_on)
    made = (await session.post("/v1/tokens", json={"name": "mine"})).json()
    assert (made["sign_on"], made["expires_at"] is not None) == (True, True)
    longer = await session.post("/v1/tokens", json={"name": "mine", "expires_in_s": 3700})
    assert (longer.status_code, longer.json()["type"].rsplit(":", 1)[-1]) == (403, "outlives-sign-on")
    federation = (await world.admin.get("/v1/federations")).json()["items"][0]["id"]
    other = {"name": "program", "roles": [{"role": "scientist", "federation_id": federation}]}
    user = (await session.post("/v1/users", json=other)).json()["id"]
    program = (await session.post("/v1/tokens", json={"name": "program", "user_id": user})).json()
    assert (program["sign_on"], program["expires_at"]) == (False, None)
