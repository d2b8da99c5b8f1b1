"""Predictions over the API: those of the recipe, faults by their paths, limits, and counts without rows."""

import asyncio
import json
import logging

import numpy as np
import pytest

from tests.services.inference.conftest import Ask
from tests.services.inference.versions import Trained
from undersong.services.inference.batching import Batcher

ROW = {"a": 61.5, "b": None, "c": "y"}


async def test_answers_are_those_of_the_recipe(ask: Ask, trained: Trained) -> None:
    rows = [ROW, {"a": 40, "b": -3.25, "c": "x"}, {"a": None, "b": -2, "c": None}]
    expected = trained.predictor.predict({name: [row[name] for row in rows] for name in ROW})
    async with ask() as client:
        answer = await client.post("/v1/predictions", json={"rows": rows})
        assert answer.json() == {"version_id": "ver_2", "predictions": expected}
        told = (await client.get("/v1/model")).json()
    assert (told["version_id"], told["task"], told["classes"]) == ("ver_2", "binary", ["no", "yes"])
    assert [column["name"] for column in told["columns"]] == ["a", "b", "c"]
    assert told["columns"][2]["categories"] == ["x", "y", "z"]
    assert {"authority", "lineage", "inclusion"} <= {check["check"] for check in told["checks"]}


@pytest.mark.parametrize("task", ["multiclass", "regression"])
async def test_other_tasks(ask: Ask, task: str) -> None:
    version = Trained(task=task)
    async with ask(version, drift_block_rows=1) as client:
        answer = await client.post("/v1/predictions", json={"rows": [ROW]})
        drift = (await client.get("/v1/drift")).json()
    assert answer.json()["predictions"] == version.predictor.predict({name: [cell] for name, cell in ROW.items()})
    said = drift["predictions"]
    assert sum(said["counts"]) + said["below"] + said["above"] == 1
    assert said["categories"] == (["low", "mid", "high"] if task == "multiclass" else [])


@pytest.mark.parametrize(
    ("rows", "path", "said"),
    [
        ([ROW, {**ROW, "a": "old"}], "/rows/1/a", "is not a number"),
        ([{**ROW, "a": True}], "/rows/0/a", "send 1 or 0"),
        ([{**ROW, "a": [1]}], "/rows/0/a", "is no number"),
        ([{**ROW, "a": 2**60 + 1}], "/rows/0/a", "more digits"),
        ([ROW, ROW, ROW, {**ROW, "c": "w"}], "/rows/3/c", "none of the categories 'x', 'y', 'z'"),
        ([{"a": 1, "c": "x"}], "/rows/0/b", "send null"),
        ([{**ROW, "aa": 1}], "/rows/0/aa", "no such column"),
        ([{**ROW, "x/~": 1}], "/rows/0/x~1~0", "no such column"),
        ([{**ROW, "y": "yes"}], "/rows/0/y", "no such column"),
        ([ROW, 5], "/rows/1", "no object"),
        ([], "/rows", "at least 1"),
        ("all", "/rows", "list"),
        ([{**ROW, "a": 1e300, "b": 1e300}], "/rows/0", "far outside"),
    ],
)
async def test_faults_have_paths_and_tell_no_cell(ask: Ask, rows: object, path: str, said: str) -> None:
    async with ask() as client:
        answer = await client.post("/v1/predictions", json={"rows": rows})
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert [error["path"] for error in problem["errors"]] == [path]
    assert said in problem["errors"][0]["message"]
    assert "old" not in answer.text
    assert "'w'" not in answer.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"rows": [{"a": NaN}]}', 422),
        (b'{"rows": [{"a": Infinity}]}', 422),
        (b'{"rows": [{"a": 1e999}]}', 422),
        (b'{"rows": [{"a": 1, "a": 2}]}', 422),
        (b'{"rows": [{"c": "\\ud800"}]}', 422),
        (b'{"rows": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422),
        (b'{"rows": [', 400),
        (b"\xff", 400),
        (b'{"rows": [], "more": 1}', 422),
        (b'{"rows": "' + b"x" * (4 << 20) + b'"}', 413),
    ],
)
async def test_bodies_that_are_no_rows(ask: Ask, body: bytes, status: int) -> None:
    async with ask() as client:
        answer = await client.post("/v1/predictions", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


async def test_categories_are_compared_as_texts(ask: Ask) -> None:
    async with ask() as client:
        for text, status in (("x ", 200), ("х", 422), ("X", 422), ("x\u200b", 422), ("𝔵", 422)):
            answer = await client.post("/v1/predictions", json={"rows": [{**ROW, "c": text}]})
            assert answer.status_code == status, text


async def test_too_many_rows_and_a_full_queue(ask: Ask) -> None:
    async with ask(max_rows=3, queued_rows=4, queued_requests=2, batch_rows=1) as client:
        refused = await client.post("/v1/predictions", json={"rows": [ROW] * 4})
        assert (refused.status_code, refused.json()["type"]) == (413, "urn:undersong:problem:too-many-rows")
        asked = [client.post("/v1/predictions", json={"rows": [ROW] * 3}) for _ in range(40)]
        answers = await asyncio.gather(*asked)
        found = {answer.status_code for answer in answers}
        assert found == {200, 429}
        full = next(answer for answer in answers if answer.status_code == 429)
        assert full.json()["type"] == "urn:undersong:problem:queue-full"
        assert full.headers["retry-after"] == "1"
        assert (await client.post("/v1/predictions", json={"rows": [ROW]})).status_code == 200
        metrics = (await client.get("/metrics")).text
    assert 'fl_inference_rows_total{outcome="queue-full"}' in metrics
    assert "fl_inference_queued_rows 0.0" in metrics


async def test_counts_are_shown_in_blocks_and_ask_the_sites_for_the_same(ask: Ask, trained: Trained) -> None:
    async with ask(drift_block_rows=10) as client:
        for number in range(9):
            await client.post("/v1/predictions", json={"rows": [{**ROW, "a": 40 + number}]})
        before = (await client.get("/v1/drift")).json()
        assert before["rows"] == 0
        assert not any(before["columns"]["a"]["counts"])
        await client.post("/v1/predictions", json={"rows": [{**ROW, "a": None}, {"a": -1e6, "b": -3, "c": None}]})
        after = (await client.get("/v1/drift")).json()
        assert (await client.post("/v1/predictions", json={"rows": [{**ROW, "a": "?"}]})).status_code == 422
        assert (await client.get("/v1/drift")).json() == after
    assert after["rows"] == 11
    a, b, c = (after["columns"][name] for name in ("a", "b", "c"))
    assert (sum(a["counts"]), a["below"], a["above"], a["missing"]) == (9, 1, 0, 1)
    assert (c["categories"], c["counts"], c["missing"]) == (["x", "y", "z"], [0, 10, 0], 1)
    assert (sum(b["counts"]), b["missing"]) == (1, 10)
    assert sum(after["predictions"]["counts"]) == 11
    assert after["queries"][0] == {"query": "histogram", "column": "a", "edges": a["edges"]}
    assert after["queries"][2] == {"query": "contingency", "columns": ["c"]}


async def test_no_cell_is_logged(
    ask: Ask, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with ask() as client:
        for cell in (123454321.5, "secretcell"):
            await client.post("/v1/predictions", json={"rows": [{**ROW, "a": cell}]})
    said = caplog.text + "".join(capsys.readouterr())
    assert "123454321" not in said
    assert "secretcell" not in said


async def test_a_fault_of_the_model_is_bare(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ask() as client:

        async def fails(*_: object) -> None:
            raise RuntimeError(json.dumps(ROW))

        monkeypatch.setattr(Batcher, "ask", fails)
        answer = await client.post("/v1/predictions", json={"rows": [ROW]})
    assert answer.status_code == 500
    assert "61.5" not in answer.text


def test_batches_agree_with_single_rows(trained: Trained) -> None:
    random = np.random.default_rng(3)
    columns = {"a": random.normal(50, 10, 64).tolist(), "b": [None] * 64, "c": list("xyzx" * 16)}
    together = trained.predictor.scores(columns)
    alone = [trained.predictor.scores({name: [cells[at]] for name, cells in columns.items()})[0] for at in range(64)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
