"""Signing in and out: what the cookie is worth, where, and for how long."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI

from tests.services.coordinator.dashboard.conftest import ROOT, csrf


async def test_a_wrong_token_is_refused_with_one_line(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.post(f"{ROOT}/login", data={"token": "ust_wrong"})
    assert answer.status_code == 401
    assert "not known" in answer.text
    assert "set-cookie" not in answer.headers


async def test_the_cookie_is_sealed_and_kept_to_our_pages(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.post(f"{ROOT}/login", data={"token": "ust_test-token"})
    cookie = answer.headers["set-cookie"]
    assert "ust_" not in cookie
    assert {"HttpOnly", "SameSite=strict", f"Path={ROOT}"} <= set(cookie.split("; "))


@pytest.mark.parametrize(
    "wanted", ["https://evil.example", "//evil.example", "/dashboard//evil", "/v1/jobs", "/dashboard\\e"]
)
async def test_signing_in_never_leads_elsewhere(stranger: httpx.AsyncClient, wanted: str) -> None:
    answer = await stranger.post(f"{ROOT}/login", data={"token": "ust_test-token", "next": wanted})
    assert answer.headers["location"] == ROOT


async def test_a_changed_cookie_is_no_session(browser: httpx.AsyncClient) -> None:
    value = browser.cookies["undersong_session"]
    browser.cookies.clear()
    browser.cookies.set("undersong_session", value[:-8] + "AAAAAAA=", path=ROOT)
    assert (await browser.get(ROOT)).status_code == 303


async def test_over_https_no_other_host_or_path_can_set_the_cookie(app: FastAPI) -> None:
    app.state.dashboard = replace(app.state.dashboard, secure=True)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://test") as browser:
        cookie = (await browser.post(f"{ROOT}/login", data={"token": "ust_test-token"})).headers["set-cookie"]
        assert cookie.startswith("__Host-undersong_session=")
        assert {"Secure", "HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        assert "Domain" not in cookie
        assert (await browser.get(ROOT)).status_code == 200
        browser.cookies.set("undersong_session", browser.cookies.pop("__Host-undersong_session"), path="/")
        assert (await browser.get(ROOT)).status_code == 303, "a name without the prefix is no session over https"


async def test_signing_in_begins_a_new_session_and_ends_the_one_that_was_brought(browser: httpx.AsyncClient) -> None:
    """Session fixation: a planted or stolen earlier cookie is worth nothing."""
    planted = browser.cookies["undersong_session"]
    await browser.post(f"{ROOT}/login", data={"token": "ust_test-token"})
    assert browser.cookies["undersong_session"] != planted
    assert (await browser.get(ROOT)).status_code == 200
    assert (await _with(browser, planted)).status_code == 303


async def _with(browser: httpx.AsyncClient, cookie: str) -> httpx.Response:
    browser.cookies.clear()
    return await browser.get(ROOT, headers={"Cookie": f"undersong_session={cookie}"})


async def test_a_stolen_cookie_ends_with_the_sign_out(browser: httpx.AsyncClient) -> None:
    stolen = browser.cookies["undersong_session"]
    await browser.post(f"{ROOT}/logout", data={"csrf": await csrf(browser)})
    assert (await _with(browser, stolen)).status_code == 303


async def test_after_ten_wrong_tokens_even_the_right_one_waits(stranger: httpx.AsyncClient) -> None:
    for _ in range(10):
        assert (await stranger.post(f"{ROOT}/login", data={"token": "ust_guess"})).status_code == 401
    answer = await stranger.post(f"{ROOT}/login", data={"token": "ust_test-token"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "900")
    assert "Wait 15 minutes" in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/login", "/logout", "/jobs/job_01running/cancel"])
@pytest.mark.parametrize("header", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
async def test_no_form_is_taken_from_elsewhere(
    browser: httpx.AsyncClient, view, path: str, header: dict[str, str]
) -> None:
    """Signing in too: else another site could sign the browser in as another user."""
    form = {"token": "ust_test-token", "csrf": await csrf(browser)}
    assert (await browser.post(ROOT + path, data=form, headers=header)).status_code == 403
    assert view.steered == []
    assert (await browser.get(ROOT)).status_code == 200


async def test_a_revoked_token_ends_the_session(browser: httpx.AsyncClient, app: FastAPI) -> None:
    app.state.dashboard.source.token = "ust_another"
    assert (await browser.get(ROOT)).status_code == 303


async def test_a_session_ends_after_a_working_day(browser: httpx.AsyncClient, app: FastAPI) -> None:
    later = datetime.now(UTC) + timedelta(hours=13)
    app.state.dashboard = replace(app.state.dashboard, clock=lambda: later)
    assert (await browser.get(ROOT)).status_code == 303
