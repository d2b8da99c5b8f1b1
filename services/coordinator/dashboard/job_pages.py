"""The pages that show jobs side by side, and one job in time."""

from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from undersong.services.coordinator.dashboard import comparison
from undersong.services.coordinator.dashboard.gantt import gantt
from undersong.services.coordinator.dashboard.rendering import HEADERS
from undersong.services.coordinator.dashboard.visits import PageRoute, Visit, Visitor
from undersong.services.coordinator.repository.jobs import JobFilter
from undersong.services.coordinator.views.job_comparisons import JobComparisonView
from undersong.shared.errors import NotFound
from undersong.shared.spreadsheets import csv_text

router = APIRouter(route_class=PageRoute)
Chosen = Annotated[list[str], Query(max_length=100, description="Ids of jobs, repeated or with commas between them.")]


def ids_of(chosen: Sequence[str]) -> list[str]:
    """Return the ids, each once."""
    return list(dict.fromkeys(each for part in chosen for each in part.split(",") if each))


async def _compared(visitor: Visit, chosen: Sequence[str]) -> JobComparisonView:
    return await visitor.view.compare(ids_of(chosen))


STATES = ("running", "paused", "succeeded", "failed", "cancelled")
ORDERS = {"-created": "newest first", "created": "oldest first", "name": "by name", "state": "by state"}
Word = Annotated[str, Query(max_length=200)]


@router.get("/jobs")
async def jobs_page(
    visitor: Visitor,
    after: Annotated[str | None, Query(max_length=64)] = None,
    name: Word = "",
    state: Word = "",
    owner: Word = "",
    tag: Word = "",
    sort: Word = "",
) -> Response:
    """Return the jobs that a filter leaves, newest first or as asked for."""
    asked = {"name": name.strip(), "state": state if state in STATES else "", "owner": owner.strip()}
    asked |= {"tag": tag.strip(), "sort": sort if sort in ORDERS else ""}
    given = {key: value for key, value in asked.items() if value}
    jobs, following = await visitor.view.jobs(after, JobFilter(**given))
    query = urlencode(given | ({"after": after} if after else {}))
    values = {"asked": asked, "query": urlencode(given), "states": STATES, "orders": ORDERS, "filtered": bool(given)}
    address = f"{visitor.here}?{query}" if query else visitor.here
    return visitor.show("jobs.html", "Jobs", jobs=jobs, next=following, address=address, **values)


@router.get("/jobs/{job_id}/log")
async def log_page(
    job_id: str,
    visitor: Visitor,
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    problems: bool = False,
) -> Response:
    """Return what happened in a job, newest first; with `problems`, only what went wrong."""
    page = await visitor.view.log(job_id, before, problems=problems)
    given = {"problems": "true"} if problems else {}
    query = urlencode(given | ({"before": before} if before else {}))
    address = f"{visitor.here}?{query}" if query else visitor.here
    return visitor.show("log.html", "Jobs", page=page, problems=problems, address=address)


@router.get("/compare")
async def compare_page(visitor: Visitor, jobs: Chosen = [], sort: str = "", falling: bool = False) -> Response:  # noqa: B006
    """Return up to eight jobs side by side; without any, how to choose them."""
    if not ids_of(jobs):
        return visitor.show("compare.html", "Jobs", found=None, ids="", table=None)
    found = await _compared(visitor, jobs)
    table = comparison.table(found, sort, falling=falling)
    return visitor.show("compare.html", "Jobs", found=found, ids=",".join(ids_of(jobs)), table=table)


@router.get("/compare/curves")
async def compare_curves(visitor: Visitor, jobs: Chosen, metric: str) -> Response:
    """Return the curves of one metric, for the plot."""
    found = await _compared(visitor, jobs)
    if metric not in found.metrics:
        raise NotFound(f"None of these jobs has a curve of {metric}.")
    return JSONResponse(comparison.drawn(found, metric), headers=HEADERS)


@router.get("/compare/{part}.csv")
async def compare_csv(part: Literal["table", "curves"], visitor: Visitor, jobs: Chosen) -> Response:
    """Return the jobs, or every evaluation of each, as a CSV file."""
    found = await _compared(visitor, jobs)
    rows = comparison.table_rows(found) if part == "table" else comparison.curve_rows(found)
    headers = {**HEADERS, "content-disposition": f'attachment; filename="jobs-{part}.csv"'}
    return Response(csv_text(rows), media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/jobs/{job_id}/timeline")
async def timeline_page(
    job_id: str, visitor: Visitor, before: Annotated[str | None, Query(max_length=64)] = None
) -> Response:
    """Return a job's newest rounds in time, or those before a round: who waited for whom, and why."""
    page = await visitor.view.timeline(job_id, before)
    chart = gantt(page.rounds, page.moves, page.names, visitor.now)
    address = f"{visitor.here}?before={quote(before)}" if before else visitor.here
    return visitor.show("timeline.html", "Jobs", page=page, chart=chart, address=address)
