"""The pages of sweeps: which settings were best."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from undersong.services.coordinator.dashboard import session
from undersong.services.coordinator.dashboard.rendering import HEADERS
from undersong.services.coordinator.dashboard.sweep_plot import ordered, parallel
from undersong.services.coordinator.dashboard.visits import PageRoute, Visitor
from undersong.services.coordinator.views.sweeps import SweepView
from undersong.shared.spreadsheets import csv_text

router = APIRouter(route_class=PageRoute)


@router.get("/sweeps")
async def sweeps_page(visitor: Visitor) -> Response:
    """Return the sweeps of the person's federations."""
    return visitor.show("sweeps.html", "Jobs", sweeps=await visitor.view.sweeps())


@router.get("/sweeps/{sweep_id}")
async def sweep_page(sweep_id: str, visitor: Visitor, metric: str = "") -> Response:
    """Return one sweep: parallel coordinates, and its jobs, the best by a metric first."""
    sweep = await visitor.view.sweep(sweep_id)
    chosen = _metric(sweep, metric)
    values = {"sweep": sweep, "metric": chosen, "jobs": ordered(sweep, chosen), "drawn": parallel(sweep, chosen)}
    return visitor.show("sweep.html", "Jobs", address=f"{visitor.here}?metric={chosen}", **values)


@router.get("/sweeps/{sweep_id}/jobs.csv")
async def sweep_file(sweep_id: str, visitor: Visitor) -> Response:
    """Return the jobs of a sweep with what each varies and its newest metrics."""
    sweep = await visitor.view.sweep(sweep_id)
    header = ["place", *sweep.parameters, "state", *sweep.metrics, "job_id"]
    rows = [
        [o.place, *o.values, o.state, *(o.metrics.get(name) for name in sweep.metrics), o.job_id] for o in sweep.jobs
    ]
    headers = {**HEADERS, "content-disposition": 'attachment; filename="sweep.csv"'}
    return Response(csv_text([header, *rows]), media_type="text/csv; charset=utf-8", headers=headers)


@router.post("/sweeps/{sweep_id}/cancel")
async def cancel_sweep(sweep_id: str, request: Request, visitor: Visitor) -> Response:
    """Cancel a sweep with its jobs, then show it again."""
    visitor.session.check(await session.form_of(request))
    await visitor.view.cancel_sweep(sweep_id)
    return RedirectResponse(f"{session.PATH}/sweeps/{sweep_id}", 303, HEADERS)


def _metric(sweep: SweepView, asked: str) -> str:
    """Return the metric that is asked for, or the most usual one."""
    return asked if asked in sweep.metrics else sweep.metrics[0] if sweep.metrics else ""
