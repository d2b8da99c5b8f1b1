"""The numbers behind plots as CSV: each answer, the newest curves, every evaluation; nothing that is hidden."""

import csv
import io

import httpx

JOB = "/dashboard/jobs/job_01running"


async def table(browser: httpx.AsyncClient, path: str) -> list[list[str]]:
    answer = await browser.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/csv")
    return list(csv.reader(io.StringIO(answer.text)))


async def test_metrics_and_curves(browser: httpx.AsyncClient) -> None:
    rows = await table(browser, f"{JOB}/metrics.csv")
    assert rows[0] == ["round", "accuracy", "auc", "loss"]
    assert [row[0] for row in rows[1:]] == [str(number) for number in range(1, len(rows))]
    assert await table(browser, f"{JOB}/curves/calibration.csv") == [
        ["mean_score", "share_of_positives", "rows"], ["0.12", "0.1", "150.0"], ["0.61", "0.72", "60.0"],
    ]  # fmt: skip
    assert (await browser.get(f"{JOB}/curves/other.csv")).status_code == 422


async def test_each_answer(browser: httpx.AsyncClient) -> None:
    path = "/dashboard/jobs/job_04figures/answers"
    page = (await browser.get("/dashboard/jobs/job_04figures")).text
    headers = {}
    for number in range(1, 14):
        if f"/answers/{number}.csv" in page:
            rows = await table(browser, f"{path}/{number}.csv")
            assert {len(row) for row in rows} == {len(rows[0])}, "every row has all columns"
            assert len(rows) > 1
            headers[number] = rows[0]
        else:
            assert (await browser.get(f"{path}/{number}.csv")).status_code == 404, "what is withheld has no file"
    assert headers[2] == ["from", "to", "count"]
    assert headers[4] == ["cp", "target 0", "target 1"]
    assert len(headers) == 12
    counts = {row[0]: row[2] for row in await table(browser, f"{path}/2.csv")}
    assert counts["20.0"] == "", "a hidden count is empty"
    for odd in ("0", "14", "x"):
        assert (await browser.get(f"{path}/{odd}.csv")).status_code in (404, 422)
