"""A coordinator whose people an issuer signs on, and browsers that go there and back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from tests.services.coordinator.issuer import CLIENT, SECRET, Issuer
from tests.services.coordinator.world import World
from undersong.services.coordinator.dashboard.view_model import Dashboard
from undersong.services.coordinator.peers import issuer as peer
from undersong.services.coordinator.sign_on import SignOn
from undersong.shared.identity.sealing import Sealer

ORIGIN = "http://127.0.0.1:7001"
ROOT = "/dashboard"
ROLES: dict[str, Any] = {
    "fl-admins": "admin",
    "fl-science": {"scientist": "heart"},
    "fl-two": {"auditor": ["heart", "lungs"], "owner": "heart"},
    "fl-nowhere": {"scientist": "no such federation"},
}
LASTS_S = 3600.0


@dataclass
class Platform:
    """The coordinator, the issuer, and how to reach both."""

    world: World
    issuer: Issuer
    sign_on: SignOn
    outside: httpx.AsyncClient
    ticks: list[float]

    def browser(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.world.app), base_url=ORIGIN)

    async def go(self, browser: httpx.AsyncClient, wanted: str = ROOT) -> str:
        """Begin a sign-on and let the issuer answer; the address that the browser is sent back to."""
        begun = await browser.get(f"{ROOT}/sign-on", params={"next": wanted})
        assert begun.status_code == 303, begun.text
        answer = await self.outside.get(begun.headers["location"])
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    async def signed_on(self, browser: httpx.AsyncClient | None = None, wanted: str = ROOT) -> httpx.Response:
        browser = browser or self.browser()
        return await browser.get(await self.go(browser, wanted))

    async def users(self) -> dict[str, list[tuple[str, str | None]]]:
        """The users whom the issuer signed on, with their roles."""
        listed = (await self.world.admin.get("/v1/users")).json()["items"]
        return {
            user["name"]: sorted((role["role"], role["federation_id"]) for role in user["roles"])
            for user in listed
            if user["issuer"] == self.issuer.url
        }


@asynccontextmanager
async def platform(world: World) -> AsyncIterator[Platform]:
    """The world's coordinator with a sign-on."""
    issuer, ticks = Issuer(), [0.0]
    transport = httpx.ASGITransport(issuer.application())
    async with httpx.AsyncClient(transport=transport) as inside, httpx.AsyncClient(transport=transport) as outside:
        registration = peer.Registration(issuer.url, CLIENT, SECRET, "openid profile")
        asked = peer.Issuer(inside, registration, world.clock, lambda: ticks[0])
        sealer = Sealer.ensure(world.folder / "seal.key")
        sign_on = SignOn(world.database, asked, sealer, "groups", ROLES, LASTS_S)
        world.use_cases = world.app.state.use_cases = replace(world.use_cases, sign_on=sign_on)
        world.app.state.dashboard = Dashboard(
            world.source(), world.use_cases.signins, sealer, world.clock, ORIGIN, False, sign_on
        )
        yield Platform(world, issuer, sign_on, outside, ticks)
