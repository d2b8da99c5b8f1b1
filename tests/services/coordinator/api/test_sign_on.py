"""Sign-on of commands by the device flow, through the API."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.services.coordinator.signing_on import LASTS_S, Platform, platform
from tests.services.coordinator.world import World, make_world


@pytest.fixture
async def signing(sqlite_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Platform]:
    async with make_world(sqlite_url, redis_url, tmp_path) as world, platform(world) as made:
        yield made


async def begin(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.post("/v1/sign-on/devices")
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def finish(client: httpx.AsyncClient, handle: str) -> httpx.Response:
    return await client.post("/v1/sign-on/tokens", json={"handle": handle})


async def test_a_confirmed_code_becomes_a_token_that_ends(signing: Platform) -> None:
    client = signing.browser()
    assert (await client.get("/v1/sign-on")).json() == {"issuer": signing.issuer.url}
    begun = await begin(client)
    assert (begun["user_code"], begun["interval_s"]) == ("WDJB-MJHT", 1)
    code = next(iter(signing.issuer.devices))
    assert code not in str(begun), "the device code stays sealed"
    assert (await finish(client, begun["handle"])).json() == {"state": "pending", "token": None}
    signing.issuer.devices[code] = "slow_down"
    assert (await finish(client, begun["handle"])).json()["state"] == "slower"
    signing.issuer.devices[code] = "confirmed"
    token = (await finish(client, begun["handle"])).json()["token"]
    assert token["sign_on"] is True
    person = signing.world.client(authorization=f"Bearer {token['token']}")
    assert (await person.get("/v1/me")).json()["name"] == "ada"
    assert (await finish(client, begun["handle"])).status_code == 403, "a code is single-use"
    signing.world.clock.advance(LASTS_S + 1)
    assert (await person.get("/v1/me")).status_code == 401


async def test_a_sign_on_is_ended_by_its_own_token_and_others_are_not(signing: Platform) -> None:
    client, signing.issuer.device_state = signing.browser(), "confirmed"
    token = (await finish(client, (await begin(client))["handle"])).json()["token"]["token"]
    person, admin = signing.world.client(authorization=f"Bearer {token}"), signing.world.admin
    assert (await person.delete("/v1/sign-on")).status_code == 204
    assert (await person.get("/v1/me")).status_code == 401
    assert (await admin.delete("/v1/sign-on")).status_code == 204
    assert (await admin.get("/v1/me")).status_code == 200
    assert (await client.delete("/v1/sign-on")).status_code == 401


@pytest.mark.parametrize("said", ["access_denied", "expired_token", "<b>odd</b>"])
async def test_what_the_issuer_refuses_is_refused(signing: Platform, said: str) -> None:
    client = signing.browser()
    begun = await begin(client)
    signing.issuer.devices = dict.fromkeys(signing.issuer.devices, said)
    answer = await finish(client, begun["handle"])
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]) == (403, "sign-on-refused")
    assert "<b>" not in answer.text


async def test_without_a_group_no_token(signing: Platform) -> None:
    client, signing.issuer.groups = signing.browser(), ["staff"]
    begun = await begin(client)
    signing.issuer.devices = dict.fromkeys(signing.issuer.devices, "confirmed")
    answer = await finish(client, begun["handle"])
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]) == (403, "no-mapped-group")


@pytest.mark.parametrize("handle", ["00", "zz", "00" * 60, "é"])
async def test_a_handle_that_is_none_is_refused_without_a_question(signing: Platform, handle: str) -> None:
    assert (await finish(signing.browser(), handle)).status_code == 403
    assert "token" not in signing.issuer.asked


async def test_the_issuer_is_not_asked_at_every_request(signing: Platform) -> None:
    client = signing.browser()
    begun = await begin(client)
    codes = [(await finish(client, begun["handle"])).status_code for _ in range(7)]
    assert codes.count(429) == 2
    starts = [(await client.post("/v1/sign-on/devices")).status_code for _ in range(21)]
    assert starts.count(429) == 2


async def test_a_platform_without_an_issuer_says_so(small_world: World) -> None:
    client = small_world.client()
    assert (await client.get("/v1/sign-on")).json() == {"issuer": None}
    answer = await client.post("/v1/sign-on/devices")
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]) == (409, "no-sign-on")
