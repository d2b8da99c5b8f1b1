"""Sign-on in a real Chromium, and of a command: over loopback, as people meet it."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.async_api import async_playwright
from typer.testing import CliRunner

from tests.services.coordinator.issuer import CLIENT, SECRET
from tests.services.coordinator.signing_on import ROLES, Platform, platform
from tests.services.coordinator.world import make_world
from undersong.cli import app as command
from undersong.client import Client
from undersong.doctor.sign_on import examine_sign_on
from undersong.profile import Profile
from undersong.services.coordinator.peers.issuer import Issuer, Registration
from undersong.services.coordinator.sign_on import SignOn

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    """The application on a port of its own, in this loop."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, lifespan="off")
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        running = asyncio.create_task(server.serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await running


@pytest.fixture
async def signing(sqlite_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[tuple[Platform, str]]:
    """A platform and its issuer, each at an address that a browser reaches."""
    async with make_world(sqlite_url, redis_url, tmp_path) as world, platform(world) as made:
        issuing = made.issuer.application()
        async with served(world.app) as origin, served(issuing) as made.issuer.url, httpx.AsyncClient() as http:
            registration = Registration(made.issuer.url, CLIENT, SECRET, "openid")
            board = world.app.state.dashboard
            issuer = Issuer(http, registration, world.clock)
            made.sign_on = SignOn(world.database, issuer, board.sealer, "groups", ROLES, 600)
            world.app.state.dashboard = replace(board, sign_on=made.sign_on, origin=origin)
            world.app.state.use_cases = replace(world.use_cases, sign_on=made.sign_on)
            yield made, origin


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium, or set CHROMIUM")
async def test_a_person_signs_on_in_a_browser_without_a_click_too_many(
    signing: tuple[Platform, str], tmp_path: Path
) -> None:
    _, origin = signing
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            context = await browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
            page = await context.new_page()
            faults: list[str] = []
            page.on("console", lambda message, seen=faults: seen.append(message.text))
            await page.goto(f"{origin}/dashboard/jobs?tag=night")
            await page.screenshot(path=tmp_path / f"sign-in-{scheme}.png", full_page=True)
            assert not await page.evaluate(
                "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            ), "sideways"
            await page.get_by_role("link", name="Sign on with").click()
            await page.wait_for_selector("#jobs, h1")
            await page.wait_for_url(f"{origin}/dashboard/jobs?tag=night")
            assert "ada" in await page.content()
            await page.get_by_role("button", name="Sign out").click()
            await page.wait_for_url(f"{origin}/dashboard/signed-out")
            await page.screenshot(path=tmp_path / f"signed-out-{scheme}.png", full_page=True)
            await page.get_by_role("link", name="Sign out at the issuer too").click()
            await page.wait_for_url(f"{origin}/dashboard/login")
            assert faults == []
        await browser.close()


async def test_a_command_signs_on_and_the_doctor_looks_at_the_issuer(
    signing: tuple[Platform, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, origin = signing
    monkeypatch.setenv("UNDERSONG_HOME", str(tmp_path / "home"))
    words = ["login", "--coordinator-url", origin, "--oidc", "--profile", "here"]
    made.issuer.device_state = "confirmed"
    done = await asyncio.to_thread(CliRunner().invoke, command, words)
    assert done.exit_code == 0, done.output
    assert "WDJB-MJHT" in done.output
    assert "ust_" not in done.output
    me = await asyncio.to_thread(CliRunner().invoke, command, ["token", "list", "--profile", "here", "--json"])
    assert '"sign_on": true' in me.output
    for _ in range(2):
        out = await asyncio.to_thread(CliRunner().invoke, command, ["logout", "--profile", "here"])
    assert out.exit_code == 1, "there is no token any more"
    tokens = (await made.world.admin.get("/v1/users")).json()["items"]
    ada = next(user["id"] for user in tokens if user["issuer"])
    listed = (await made.world.admin.get("/v1/tokens", params={"user_id": ada})).json()["items"]
    assert all(token["revoked_at"] for token in listed)

    def doctor() -> list[tuple[str, str]]:
        with Client(Profile(coordinator_url=origin)) as client:
            return [(found.state, found.detail) for found in examine_sign_on(client)]

    assert await asyncio.to_thread(doctor) == [("ok", f"{made.issuer.url} answers")]
    made.issuer.faults.discovery = {"code_challenge_methods_supported": ["plain"], "jwks_uri": "http://elsewhere/jwks"}
    assert [state for state, _ in await asyncio.to_thread(doctor)] == ["fault", "fault"]
    made.issuer.faults.away = True
    assert [state for state, _ in await asyncio.to_thread(doctor)] == ["warning"]
