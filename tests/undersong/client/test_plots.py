"""Answers as plots: what is drawn is what the frames say, and a misspelt name is refused."""

import asyncio
import sys

import httpx
import pytest
from matplotlib import pyplot

from tests.undersong.client.test_frames import AT, COMPARED, COMPARISON, answer
from undersong.client import AsyncClient, Client
from undersong.client.types import JobComparison, Sweep
from undersong.errors import UndersongError
from undersong.profile import Profile

PROFILE = Profile(coordinator_url="http://coordinator", registry_url="http://registry", token="ust_x")
SWEEP = {
    "id": "swp_1", "federation_id": "fed_1", "name": "rates", "created_at": AT.isoformat(),
    "parameters": ["rate", "model"], "metrics": ["auc"],
    "jobs": [
        {"place": 0, "values": [0.1, "logistic"], "metrics": {"auc": 0.8}},
        {"place": 1, "values": [0.3, "mlp"], "metrics": {"auc": 0.9}},
        {"place": 2, "values": [0.5, "mlp"], "metrics": {}},
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def closed() -> object:
    yield
    pyplot.close("all")


def drawn(axes: object) -> list[tuple[str, list[float], list[float]]]:
    lines = axes.get_lines()  # type: ignore[attr-defined]
    return [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in lines]


def test_a_jobs_metrics_are_drawn_over_rounds() -> None:
    with Client(PROFILE, transport=httpx.MockTransport(answer)) as client:
        axes = client.job("job_1").plot("loss")
        assert drawn(axes) == [("heart", [1, 2], [0.5, 0.4])]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("round", "loss")
        with pytest.raises(UndersongError, match="there is no metric 'los'; did you mean 'loss'"):
            client.job("job_1").plot("los")
        with pytest.raises(UndersongError, match="there is no axis 'rounds'; did you mean 'round'"):
            client.job("job_1").plot("loss", over="rounds")


async def test_the_asynchronous_client_gives_a_coroutine_of_axes() -> None:
    async with AsyncClient(PROFILE, transport=httpx.MockTransport(answer)) as client:
        axes = await (await client.job("job_1")).plot("auc", "loss", over="seconds")
    assert [(label, x) for label, x, _ in drawn(axes)] == [("auc", [3.0, 6.0]), ("loss", [3.0, 6.0])]
    await asyncio.sleep(0)


def test_jobs_side_by_side_have_their_names() -> None:
    other = COMPARED | {"id": "job_2", "name": "heart"}
    found = JobComparison.model_validate(COMPARISON | {"jobs": [COMPARED, other]})
    assert [label for label, *_ in drawn(found.plot("auc", "loss"))] == ["heart, auc", "heart, loss"] * 2
    with pytest.raises(UndersongError, match="no evaluation has ended yet"):
        JobComparison.model_validate({"jobs": [], "metrics": []}).plot()


def test_a_sweeps_jobs_are_points_and_those_without_the_metric_are_left_out() -> None:
    found = Sweep.model_validate(SWEEP)
    assert found.plot().collections[0].get_offsets().tolist() == [[0.1, 0.8], [0.3, 0.9]]
    axes = found.plot("model", "auc")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["logistic", "mlp"]
    with pytest.raises(UndersongError, match="there is no parameter 'rats'"):
        found.plot("rats")
    with pytest.raises(UndersongError, match="nothing to draw"):
        Sweep.model_validate(SWEEP | {"metrics": []}).plot()


def test_without_matplotlib_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UndersongError, match="plots need matplotlib") as refused:
        Sweep.model_validate(SWEEP).plot()
    assert refused.value.remedy == "pip install 'undersong[notebook]'"
