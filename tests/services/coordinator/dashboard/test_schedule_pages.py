"""The page of schedules: what each did last, and the buttons that change it."""

import httpx

from tests.services.coordinator.dashboard.conftest import csrf


async def test_a_schedule_is_changed_from_our_page_only(browser: httpx.AsyncClient, view) -> None:
    page = (await browser.get("/dashboard/schedules")).text
    assert "weekly &lt;i&gt;" in page
    assert "3 are needed &lt;b&gt;" in page
    assert 'href="/dashboard/jobs/job_03done"' in page
    token = await csrf(browser)
    for path, act in (("sch_1", "pause"), ("sch_2", "resume"), ("sch_2", "delete")):
        assert f"/dashboard/schedules/{path}/{act}" in page
        assert (await browser.post(f"/dashboard/schedules/{path}/{act}")).status_code == 403
        answer = await browser.post(f"/dashboard/schedules/{path}/{act}", data={"csrf": token})
        assert answer.status_code == 303
    assert view.steered == [("sch_1", "pause"), ("sch_2", "resume"), ("sch_2", "delete")]
    assert (await browser.post("/dashboard/schedules/sch_1/run", data={"csrf": token})).status_code == 422


async def test_without_schedules_the_page_says_how_to_make_one(browser: httpx.AsyncClient, view) -> None:
    view.all_schedules = []
    assert "undersong schedule create job.yaml --cron" in (await browser.get("/dashboard/schedules")).text
