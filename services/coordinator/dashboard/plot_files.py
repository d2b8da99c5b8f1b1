"""The numbers behind the plots of a job's page, as CSV files."""

from collections.abc import Iterable, Sequence
from typing import Literal

from fastapi import APIRouter, Response

from undersong.services.coordinator.dashboard.rendering import HEADERS
from undersong.services.coordinator.dashboard.visits import PageRoute, Visitor
from undersong.shared.errors import NotFound
from undersong.shared.spreadsheets import csv_text
from undersong.shared.statistics.answer_tables import table

router = APIRouter(route_class=PageRoute)
_COLUMNS = {
    "calibration": ("mean_score", "share_of_positives", "rows"),
    "precision_recall": ("threshold", "recall", "precision"),
}


def _file(name: str, rows: Iterable[Sequence[object]]) -> Response:
    headers = {**HEADERS, "content-disposition": f'attachment; filename="{name}.csv"'}
    return Response(csv_text(rows), media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/jobs/{job_id}/metrics.csv")
async def metrics_file(job_id: str, visitor: Visitor) -> Response:
    """Return every evaluation of a job: a row for each round, a column for each metric."""
    measures = await visitor.view.measures(job_id)
    names = list(dict.fromkeys(name for each in measures for name in each.values))
    rows = [[each.round_number, *(each.values.get(name) for name in names)] for each in measures]
    return _file("metrics", [["round", *names], *rows])


@router.get("/jobs/{job_id}/curves/{name}.csv")
async def curve_file(job_id: str, name: Literal["calibration", "precision_recall"], visitor: Visitor) -> Response:
    """Return the newest evaluation's curve."""
    newest = (await visitor.view.job(job_id)).newest
    if newest is None or not newest.curves.get(name):
        raise NotFound(f"The newest evaluation of this job has no curve {name}.")
    return _file(name, [_COLUMNS[name], *newest.curves[name]])


@router.get("/jobs/{job_id}/answers/{number}.csv")
async def answer_file(job_id: str, number: int, visitor: Visitor) -> Response:
    """Return one answer of a statistics job, by its number on the job's page."""
    results = (await visitor.view.job(job_id)).results
    if not 1 <= number <= len(results) or results[number - 1].status != "ok":
        raise NotFound(f"This job has no answer {number} that may be shown.")
    return _file(f"answer-{number}", table(results[number - 1]))
