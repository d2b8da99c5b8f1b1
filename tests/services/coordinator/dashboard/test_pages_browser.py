"""The pages in a real Chromium: layout, keyboard, live parts, colour schemes, and the policy holding."""

import asyncio
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.effort import also
from tests.services.coordinator.dashboard.looks import faults_of_look

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium, or set CHROMIUM"),
]
SIZES = {"phone": {"width": 390, "height": 844}, "desktop": {"width": 1280, "height": 900}}
PAGES = {"now": "", "jobs": "/jobs", "compare": "/compare?jobs=job_01running,job_03done",
         "job": "/jobs/job_01running",
         "timeline": "/jobs/job_01running/timeline", "log": "/jobs/job_01running/log", "figures": "/jobs/job_04figures",
         "schedules": "/schedules", "sweeps": "/sweeps", "sweep": "/sweeps/swp_1",
         "submit": "/submit", "again": "/submit?job=job_01running",
         "round": "/rounds/rnd_train3", "sites": "/sites",
         "people": "/people", "data": "/data", "models": "/models", "model": "/models/mdl_1?metric=auc",
         "versions": "/models/mdl_1/comparison?first=1&second=3", "privacy": "/privacy",
         "datasheet": "/versions/ver_5/datasheet", "keys": "/keys", "operations": "/operations"}  # fmt: skip


@pytest.fixture
def address(app: FastAPI) -> Iterator[str]:
    """The pages on a port of their own."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/dashboard"
    server.should_exit = True
    thread.join(10)
    listener.close()


async def _signed_in(browser: Browser, address: str, size: str, scheme: str) -> tuple[Page, list[str]]:
    context = await browser.new_context(viewport=SIZES[size], color_scheme=scheme, reduced_motion="reduce")
    page = await context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type in {"error", "warning"} else None)
    await page.goto(address)
    await page.fill("#token", "ust_test-token")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#now")
    return page, faults


@pytest.mark.parametrize(
    ("size", "scheme"), [("phone", "light"), *also(("desktop", "dark"), ("phone", "dark"), ("desktop", "light"))]
)
async def test_every_page_fits_and_breaks_no_rule(address: str, size: str, scheme: str, tmp_path: Path) -> None:
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, faults = await _signed_in(browser, address, size, scheme)
        for name, path in PAGES.items():
            await page.goto(address + path)
            await expect(page.locator("#live span")).to_have_text("live")
            wide = await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
            assert not wide, f"{name} scrolls sideways on a {size}"
            assert await faults_of_look(page) == [], name
            await page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in ground[4:-1].split(",")) < 150) == (scheme == "dark")
        assert faults == []
        await browser.close()


async def test_a_job_moves_before_the_readers_eyes(address: str, view) -> None:
    """A change shows without a reload, opened details stay open, and the curves grow."""
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, faults = await _signed_in(browser, address, "desktop", "light")
        await page.goto(f"{address}/jobs/job_01running")
        await page.wait_for_selector(".uplot canvas")
        assert await page.locator(".uplot").count() == 3
        await page.click("summary:has-text('Last lines')")
        await expect(page.locator("#live span")).to_have_text("live")
        view.all_jobs[0] = replace(view.all_jobs[0], rounds_done=6, state="paused")
        view.beat += 1
        await page.wait_for_selector("#job-head >> text=paused", timeout=5000)
        await page.wait_for_selector("#job-state >> text=6 of 12 rounds")
        assert await page.locator("details[open]").count() == 1
        assert faults == []
        await browser.close()


async def test_a_job_is_cancelled_with_the_keyboard_alone(address: str, view) -> None:
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, faults = await _signed_in(browser, address, "phone", "dark")
        await page.goto(f"{address}/jobs/job_01running")
        await page.focus("#cancel summary")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#job-head >> text=cancelled")
        assert view.steered == [("job_01running", "cancel")]
        assert faults == []
        await browser.close()


@pytest.mark.exhaustive
async def test_a_dead_task_is_requeued_without_scripts(address: str, view) -> None:
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context(java_script_enabled=False, viewport=SIZES["phone"])
        page = await context.new_page()
        await page.goto(f"{address}/login?next=/dashboard/operations")
        await page.fill("#token", "ust_test-token")
        await page.click("button.main")
        await expect(page.locator("button:has-text('Requeue')")).to_have_count(1)  # the other task's round has ended
        await expect(page.locator("button:has-text('Discard')")).to_have_count(2)
        await page.click("button:has-text('Requeue')")
        await page.wait_for_selector("text=No task used up its five attempts")
        assert view.decided == [("task_01", "requeue")]
        await browser.close()


async def test_pages_read_without_scripts(address: str) -> None:
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context(java_script_enabled=False)
        page = await context.new_page()
        await page.goto(address)
        await page.fill("#token", "ust_test-token")
        await page.click("button.main")
        await page.click("nav >> text=Jobs")
        await page.click("main >> text=Heart disease")
        await page.click("button:has-text('Pause')")
        await expect(page.locator("#job-head .badge")).to_contain_text("paused")
        await browser.close()


async def test_a_plot_is_saved_as_a_picture_with_what_is_on_the_page(address: str, tmp_path: Path) -> None:
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, faults = await _signed_in(browser, address, "desktop", "dark")
        for path, name, least in (
            ("job_04figures", "kaplan-meier of age by sex", 4),
            ("job_01running", "calibration", 3),
        ):
            await page.goto(f"{address}/jobs/{path}")
            async with page.expect_download() as waiting:
                await page.click(f"[data-png='{name}']")
            saved = await waiting.value
            assert saved.suggested_filename == f"{name.replace(' ', '-')}.png"
            await saved.save_as(tmp_path / saved.suggested_filename)
            with Image.open(tmp_path / saved.suggested_filename) as picture:
                colours = picture.convert("RGB").quantize(16).getcolors() or []
                assert picture.width > 800 if path == "job_04figures" else picture.width > 400
            assert len(colours) >= least, "ground, texts and curves"
        assert await page.locator(".chart button.link").count() == 3
        assert faults == []
        await browser.close()


@pytest.mark.exhaustive
async def test_answers_are_drawn_without_scripts(address: str) -> None:
    """Every plot is SVG with its numbers beside it; hidden counts are drawn as hidden."""
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context(java_script_enabled=False, viewport=SIZES["phone"])
        page = await context.new_page()
        await page.goto(address)
        await page.fill("#token", "ust_test-token")
        await page.click("button.main")
        await page.wait_for_selector("#now")
        await page.goto(f"{address}/jobs/job_04figures")
        assert await page.locator("section.answer").count() == 13
        curves = page.locator("section.answer", has_text="kaplan-meier of age by sex")
        assert await curves.locator("polyline.step").count() == 2
        assert "Log-rank" in await curves.inner_text()
        hazards = page.locator("section.answer", has_text="cox-regression of age").locator(
            "[data-label='Hazard ratio']"
        )
        assert await hazards.count() == 2
        histogram = page.locator("section.answer", has_text="histogram of age").locator("svg.plot")
        assert await histogram.locator("rect").count() == 8
        assert await histogram.locator("rect.hid").count() >= 2
        tall = await histogram.locator("rect.fill").nth(3).bounding_box()
        assert tall is not None
        assert tall["height"] > 20
        table = page.locator("section.answer", has_text="contingency of cp, target").locator("table")
        assert "392" in await table.inner_text()
        heat = page.locator("section.answer", has_text="correlation of age, thalach").locator("td.heat-neg1")
        assert (await heat.first.inner_text()).startswith("-0.")
        assert "withheld" in await page.locator("section.answer", has_text="correlation of ca").inner_text()
        await browser.close()
