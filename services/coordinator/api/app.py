"""The application: every router, and what it needs to be ready."""

from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from undersong.services.coordinator.api import (
    accounts,
    comparisons,
    events,
    evidence,
    federations,
    jobs,
    membership,
    operations,
    schedules,
    sign_on,
    sweeps,
    tasks,
    two_persons,
    webhooks,
)
from undersong.services.coordinator.dashboard import router as dashboard_router
from undersong.shared.database import Database
from undersong.shared.errors import Unavailable
from undersong.shared.queues import Streams
from undersong.shared.web.app import Lifespan, create_app
from undersong.shared.web.health import database_checks

DESCRIPTION = "Federations, sites, jobs, rounds and tasks: who learns what with whom, and how far it has come."


def application(database: Database, streams: Streams, lifespan: Lifespan | None = None) -> FastAPI:
    """Build the application; the lifespan sets ``app.state.use_cases``, ``.tokens``, ``.verifier``."""

    async def certificate() -> None:
        if app.state.verifier is None:
            raise Unavailable("the coordinator has no certificate yet")

    async def root() -> RedirectResponse:
        return RedirectResponse(dashboard_router.prefix, 307)

    jobs_and_more = (jobs, comparisons, sweeps, schedules, events, tasks)
    people = (membership, accounts, two_persons, sign_on)
    modules = (federations, *jobs_and_more, *people, evidence, operations, webhooks)
    routers = [module.router for module in modules]
    app = create_app(
        title="Undersong coordinator",
        service="coordinator",
        routers=[*routers, dashboard_router],
        lifespan=lifespan,
        checks=database_checks(database, "coordinator") | {"certificate": certificate},
        degradable={"redis": streams.ping},
        description=DESCRIPTION,
    )
    app.add_api_route("/", root, include_in_schema=False)
    return app
