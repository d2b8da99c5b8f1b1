"""A job's rounds in time: bars stay on the chart, and each says why."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.services.coordinator.dashboard.conftest import NAMES, ROOT, make_moves, make_round
from undersong.services.coordinator.dashboard.gantt import Gantt, gantt
from undersong.services.coordinator.dashboard.views import RoundItem, TaskMove

BEGAN = datetime(2026, 11, 30, tzinfo=UTC)
SITES = {f"site_01k{at}": name for at, name in enumerate(NAMES)}


def drawn(rounds: list[RoundItem], moves: list[TaskMove], after_s: float = 60.0) -> Gantt:
    return gantt(rounds, moves, SITES, BEGAN + timedelta(seconds=after_s))


def test_a_lane_tells_waiting_work_and_a_retry_with_its_reason() -> None:
    round_ = make_round("job_1", 3, "train", BEGAN)
    chart = drawn([round_], [move for site in SITES for move in make_moves(round_, site)])
    assert [lane.name for lane in chart.lanes] == sorted(NAMES)
    bars = next(lane.bars for lane in chart.lanes if lane.name == "Switzerland")
    assert [bar.kind for bar in bars] == ["wait", "fault", "wait", "work", "rest"]
    assert "It <failed> at chol. (recipe-failed); it is tried again" in bars[1].text
    assert chart.rounds[0].waited == "Long Beach: 0.25 s after the others"
    assert chart.rounds[0].attempts == 2


def test_a_site_that_never_answered_is_named_and_the_deadline_is_drawn() -> None:
    round_ = make_round("job_1", 1, "train", BEGAN, "failed")
    round_ = replace(round_, deadline=round_.created_at + timedelta(seconds=1), ended_at=BEGAN + timedelta(seconds=3))
    chart = drawn([round_], make_moves(round_, "site_01k0"))
    assert chart.rounds[0].waited == "Hungary, Switzerland, Long Beach: no answer"
    assert 0 < (chart.rounds[0].deadline_x or 0) < 100
    assert {bar.text for lane in chart.lanes for bar in lane.bars if bar.kind == "fault"} == {
        f"{name}, train 1: no answer before the round ended" for name in NAMES[1:]
    }


def test_the_engines_steps_cut_the_collecting() -> None:
    """By the aggregator's clock, which may differ: no step leaves the time in which the round collected."""
    round_ = make_round("job_1", 1, "train", BEGAN)
    collecting = [bar for bar in drawn([round_], []).rounds[0].phases if bar.kind == "collect"]
    assert [bar.text for bar in collecting] == [
        "train 1: collect, step advertise: 4 sites, 0.12 s",
        "train 1: collect, step upload: 4 sites, 0.88 s",
        "train 1: collect 0.25 s",
    ]
    late = replace(round_, steps=tuple(replace(each, closed_at=BEGAN + timedelta(hours=1)) for each in round_.steps))
    phases = drawn([late], []).rounds[0].phases
    assert [bar.kind for bar in phases] == ["prepare", "collect", "collect", "sum"]
    assert phases[-1].end <= 100


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1e7), st.floats(0, 1e6)), min_size=1, max_size=8),
    st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from(["leased", "open", "done", "rejected", "odd"]), st.floats(-9, 1e7))
    ),
)
def test_whatever_happened_the_bars_stay_on_the_chart(
    times: list[tuple[float, float]], told: list[tuple[int, str, float]]
) -> None:
    """Rounds that overlap or last no time, moves of other rounds, in any order."""
    rounds, at = [], BEGAN
    for number, (pause, length) in enumerate(times):
        at += timedelta(seconds=pause)
        made = make_round("job_1", number, "train", at)
        rounds.append(replace(made, ended_at=at + timedelta(seconds=length)))
    moves = [
        TaskMove(f"rnd_train{n}", "site_01k1", state, BEGAN + timedelta(seconds=s), 1, None, None)
        for n, state, s in told
    ]
    chart = drawn(rounds, moves, 2e8)
    bars = [bar for lane in chart.lanes for bar in lane.bars] + [bar for each in chart.rounds for bar in each.phases]
    assert all(0 <= bar.x < 100 and bar.width > 0 and bar.end <= 100.1 for bar in bars)
    assert all(0 <= each.x <= 100 for each in chart.rounds)


async def test_the_timelines_page_leads_to_earlier_rounds(browser: httpx.AsyncClient) -> None:
    page = (await browser.get(f"{ROOT}/jobs/job_01running/timeline")).text
    assert "Who waited for whom" in page
    assert "It &lt;failed&gt; at chol." in page
    assert "/timeline?before=rnd_train3" in page
    earlier = (await browser.get(f"{ROOT}/jobs/job_01running/timeline?before=rnd_train3")).text
    assert 'hx-get="/dashboard/jobs/job_01running/timeline?before=rnd_train3"' in earlier
    assert "Newest rounds" in earlier
