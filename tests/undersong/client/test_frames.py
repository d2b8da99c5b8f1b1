"""Answers in notebooks: data frames of both clients, also in a running loop; HTML that runs nothing."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from undersong.client import AsyncClient, Client
from undersong.client.showing import LONGEST, html_of, text_of
from undersong.client.types import Event, Job, JobComparison, Round, Sweep
from undersong.errors import UndersongError
from undersong.profile import Profile

AT = datetime(2026, 12, 1, tzinfo=UTC)
JOB = {"id": "job_1", "name": "heart <b>", "federation_id": "fed_1", "state": "running", "spec": {"rounds": 8},
       "progress": {"trained": 3, "rounds": 8}}  # fmt: skip
ROUND = {"id": "rnd_1", "job_id": "job_1", "number": 1, "kind": "train", "phase": "published", "got": 3,
         "cohort": ["a", "b", "c", "d"], "created_at": AT.isoformat(),
         "finished_at": (AT + timedelta(seconds=7)).isoformat()}  # fmt: skip
METRICS = {"auc": [0.8, None], "loss": [0.5, 0.4]}
CURVE = {"rounds": [1, 2], "seconds": [3.0, 6.0], "update_bytes": None, "metrics": METRICS}
COMPARED = {"id": "job_1", "name": "heart", "state": "running", "curve": CURVE}
COMPARISON = {"jobs": [COMPARED], "metrics": ["auc", "loss"]}


def answer(request: httpx.Request) -> httpx.Response:
    """What a coordinator says."""
    path = request.url.path
    if path.endswith("/rounds"):
        return httpx.Response(200, json={"items": [ROUND, ROUND | {"finished_at": None, "number": 2}], "next": None})
    if path.endswith("/job-comparison"):
        return httpx.Response(200, json=COMPARISON)
    return httpx.Response(200, json={"items": [JOB], "next": None} if path.endswith("/jobs") else JOB)


@pytest.fixture
def profile() -> Profile:
    return Profile(coordinator_url="http://coordinator", registry_url="http://registry", token="ust_x")


def check_rounds(frame: Any) -> None:
    assert list(frame["number"]) == [1, 2]
    assert list(frame["cohort"]) == [4, 4]
    assert frame["seconds"][0] == 7.0
    assert frame["seconds"].isna()[1]


def test_frames_of_the_client(profile: Profile) -> None:
    with Client(profile, transport=httpx.MockTransport(answer)) as client:
        check_rounds(client.job("job_1").rounds_frame())
        frame = client.jobs()[0].metrics_frame()
        assert list(frame.columns) == ["job", "round", "seconds", "update_bytes", "auc", "loss", "job_id"]
        assert frame["auc"].isna().tolist() == [False, True]


async def test_both_clients_work_in_a_running_loop(profile: Profile) -> None:
    asyncio.get_running_loop()
    with Client(profile, transport=httpx.MockTransport(answer)) as client:
        check_rounds(client.job("job_1").rounds_frame())
    async with AsyncClient(profile, transport=httpx.MockTransport(answer)) as other:
        check_rounds(await (await other.job("job_1")).rounds_frame())
        assert len(await (await other.jobs())[0].metrics_frame()) == 2


def test_a_job_made_by_hand_says_what_to_do() -> None:
    with pytest.raises(UndersongError, match="not asked for by a client"):
        Job.model_validate(JOB).rounds_frame()


def test_a_sweep_is_a_frame() -> None:
    sweep = Sweep.model_validate({
        "id": "swp_1", "federation_id": "fed_1", "name": "rates", "parameters": ["/rounds"], "metrics": ["auc"],
        "jobs": [{"place": 1, "values": [3], "state": "succeeded", "job_id": "job_1", "metrics": {"auc": 0.8}},
                 {"place": 2, "values": [None], "state": "waiting"}],
    })  # fmt: skip
    frame = sweep.frame()
    assert frame["auc"].isna().tolist() == [False, True]
    assert next(iter(frame["/rounds"])) == 3


def test_html_is_escaped_and_short() -> None:
    shown = Job.model_validate(JOB)._repr_html_()
    assert "heart &lt;b&gt;" in shown
    assert 'value="3" max="8"' in shown
    assert "<b>" not in shown
    assert "<script" not in Round.model_validate(ROUND | {"reason": "<script>alert(1)</script>"})._repr_html_()
    assert JobComparison.model_validate(COMPARISON)._repr_html_().startswith("<div><strong>Comparison")
    assert len(text_of("x" * 1000)) == LONGEST
    assert text_of(list(range(30))).endswith("…")
    assert html_of("t", {"a": None, "b": [], "c": 0}).count("<tr>") == 1


def test_in_a_notebook_a_wait_shows_the_job_and_survives_what_cannot_be_shown(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One display that follows the job; a refusal on the way ends no wait."""
    shown: list[Any] = []
    handle = SimpleNamespace(update=shown.append)
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=True))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    display = SimpleNamespace(display=lambda answer, display_id: shown.append(answer) or handle)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    answers = iter([httpx.Response(404, json={}), httpx.Response(200, json=JOB), httpx.Response(200, json=JOB)])
    with Client(profile, transport=httpx.MockTransport(lambda _: next(answers))) as client:
        told = (Event(id=str(at), type="round.published") for at in range(2))
        monkeypatch.setattr(client, "follow", lambda *_, **__: told)
        job = client.wait("job_1")
    assert shown == [job, job]
