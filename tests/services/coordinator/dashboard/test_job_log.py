"""A job's log: each event is a line that says who did what, and why."""

import httpx

from tests.services.coordinator.dashboard.conftest import NAMES, ROOT
from tests.services.coordinator.dashboard.events import EVENTS
from undersong.services.coordinator.dashboard.job_log import PROBLEMS, lines

SITES = {f"site_01k{at}": name for at, name in enumerate(NAMES)}


def test_each_event_is_a_sentence() -> None:
    told = [(line.who, line.text, line.detail) for line in reversed(lines(EVENTS, SITES))]
    assert told == [
        ("ada", "the job is created", ""),
        ("coordinator", "train 1 is planned", ""),
        (NAMES[0], "fetched its task", ""),
        (NAMES[1], "could not do its task and is asked again (attempt 2)", "It <failed> at chol."),
        (NAMES[2], "is accused by other sites, which proves nothing", "no detail was given"),
        (NAMES[0], "answered", ""),
        (
            "coordinator",
            "train 1 failed, 1 of 4 updates",
            "Fewer sites than the minimum cohort gave a usable update in time.",
        ),
    ]
    assert {event.type for event in EVENTS} & PROBLEMS == {"task.open", "site.disputed", "round.failed"}


async def test_the_page_goes_back_in_time_and_shows_problems_alone(browser: httpx.AsyncClient) -> None:
    page = (await browser.get(f"{ROOT}/jobs/job_01running/log")).text
    assert "It &lt;failed&gt; at chol." in page
    assert "the job is created" not in page
    assert "/log?before=3" in page
    earlier = (await browser.get(f"{ROOT}/jobs/job_01running/log?before=3")).text
    assert "the job is created" in earlier
    assert "Newest events" in earlier
    problems = (await browser.get(f"{ROOT}/jobs/job_01running/log?problems=true")).text
    assert "fetched its task" not in problems
    assert 'hx-get="/dashboard/jobs/job_01running/log?problems=true"' in problems
    for wrong in ("before=0", "before=x", "problems=perhaps"):
        assert (await browser.get(f"{ROOT}/jobs/job_01running/log?{wrong}")).status_code == 422
