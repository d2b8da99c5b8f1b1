"""The pages of sweeps: the plot, the table, the file, and the end of all its jobs from our page only."""

import csv
import io

import httpx

from tests.services.coordinator.dashboard.conftest import csrf

SWEEP = "/dashboard/sweeps/swp_1"


async def test_a_sweep_shows_its_jobs_and_is_cancelled_from_our_page_only(browser: httpx.AsyncClient, view) -> None:
    page = (await browser.get(SWEEP)).text
    assert page.count("<polyline") == 9
    assert "2 sites &lt;b&gt;" in page
    assert "ε 12 at δ 1e-05" in page
    by_loss = (await browser.get(f"{SWEEP}?metric=loss")).text
    assert by_loss.index("/jobs/job_03") < by_loss.index("/jobs/job_01")
    assert (await browser.get(f"{SWEEP}?metric=%3Cscript%3E")).status_code == 200
    assert (await browser.post(f"{SWEEP}/cancel")).status_code == 403
    assert (await browser.post(f"{SWEEP}/cancel", data={"csrf": await csrf(browser)})).status_code == 303
    assert view.steered == [("swp_1", "cancel")]


async def test_its_numbers_come_as_csv(browser: httpx.AsyncClient) -> None:
    rows = list(csv.reader(io.StringIO((await browser.get(f"{SWEEP}/jobs.csv")).text)))
    assert rows[0][:3] == ["place", "/recipe/params/lr", "/strategy/name"]
    assert len(rows) == 13
    assert rows[-1][-1] == ""


async def test_without_sweeps_the_page_says_how_to_make_one(browser: httpx.AsyncClient, view) -> None:
    view.all_sweeps = []
    assert "undersong sweep create job.yaml" in (await browser.get("/dashboard/sweeps")).text
