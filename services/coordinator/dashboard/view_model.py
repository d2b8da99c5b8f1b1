"""The seam between pages and use cases: what one signed-in person may see and do.

`source.py` implements it over the coordinator; tests implement it with plain values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from fastapi import Request

from undersong.services.coordinator.dashboard.audit_views import Audit, DatasheetPage, Exposure, KeysPage
from undersong.services.coordinator.dashboard.catalogue_view import ModelPages
from undersong.services.coordinator.dashboard.member_view import MemberView
from undersong.services.coordinator.dashboard.views import (
    ComparisonItem,
    JobItem,
    JobPage,
    LogPage,
    Measure,
    NowPage,
    OperationsPage,
    PublishedVersion,
    RoundItem,
    SiteItem,
    TimelinePage,
)
from undersong.services.coordinator.repository.jobs import JobFilter
from undersong.services.coordinator.sign_on import SignOn
from undersong.services.coordinator.views.job_comparisons import JobComparisonView
from undersong.services.coordinator.views.jobs import JobVerdict
from undersong.services.coordinator.views.schedules import ScheduleView
from undersong.services.coordinator.views.sweeps import SweepItemView, SweepView
from undersong.shared.clock import Clock
from undersong.shared.identity.sealing import Sealer

ScheduleAct = Literal["pause", "resume", "delete"]


@dataclass(frozen=True, slots=True)
class RoundPage:
    """One round with its roster, and the job it belongs to."""

    round: RoundItem
    job: JobItem


class ViewModel(Protocol):
    """One person's view. Calls raise NotFound for what the person may not see, Forbidden for what they may not do."""

    name: str

    @property
    def members(self) -> MemberView:
        """Return what the person may see and do about sites and people."""

    async def now(self) -> NowPage:
        """Return the state of everything, newest jobs first."""

    async def jobs(self, after: str | None, chosen: JobFilter) -> tuple[Sequence[JobItem], str | None]:
        """Return a page of the chosen jobs, and where the next one begins."""

    async def job(self, job_id: str) -> JobPage:
        """Return one job with its rounds and metrics."""

    async def document(self, job_id: str) -> Mapping[str, object]:
        """Return the document of a job that the person may run again."""

    async def placed(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return a job document with the federation's id in place of its name, or of the only one there is."""

    async def validate(self, document: Mapping[str, Any]) -> JobVerdict:
        """Return what a job would do; raises JobInvalid with every fault."""

    async def submit(self, document: Mapping[str, Any]) -> JobItem:
        """Start a job; raises JobInvalid with every fault."""

    async def timeline(self, job_id: str, before: str | None) -> TimelinePage:
        """Return a job's newest rounds with all that happened in them, or those before a round."""

    async def log(self, job_id: str, before: int | None, *, problems: bool) -> LogPage:
        """Return a job's newest events, or those before an event; only what went wrong, where `problems`."""

    async def compare(self, job_ids: Sequence[str]) -> JobComparisonView:
        """Return up to eight jobs side by side."""

    async def measures(self, job_id: str) -> Sequence[Measure]:
        """Return the metrics of a job's evaluation rounds."""

    async def steer(self, job_id: str, action: str) -> None:
        """Pause, resume or cancel a job."""

    async def schedules(self) -> Sequence[ScheduleView]:
        """Return the schedules of the person's federations."""

    async def steer_schedule(self, schedule_id: str, action: ScheduleAct) -> None:
        """Pause, resume or delete a schedule."""

    async def sweeps(self) -> Sequence[SweepItemView]:
        """Return the newest sweeps of the person's federations."""

    async def sweep(self, sweep_id: str) -> SweepView:
        """Return one sweep with its jobs."""

    async def cancel_sweep(self, sweep_id: str) -> None:
        """Cancel a sweep with its jobs."""

    async def round(self, round_id: str) -> RoundPage:
        """Return one round."""

    async def sites(self) -> Sequence[SiteItem]:
        """Return every site of the person's federations."""

    async def comparisons(self) -> Sequence[ComparisonItem]:
        """Return every data set that several sites of a federation have."""

    @property
    def models(self) -> ModelPages:
        """Return what the person may see and do about models."""

    async def releases(self) -> Sequence[PublishedVersion]:
        """Return the model versions that rounds published, newest first."""

    async def audit(self, subject: str) -> Audit:
        """Return what the checks over the evidence about a round or version found."""

    async def operations(self) -> OperationsPage:
        """Return what waits, what was given up, and how the last day went."""

    async def decide(self, task_id: str, act: Literal["requeue", "discard"]) -> None:
        """Give a dead task another try, or put it away."""

    async def keys(self) -> KeysPage:
        """Return the keys of the services and of the person's sites."""

    async def privacy(self) -> Sequence[Exposure]:
        """Return what was released from each data set."""

    async def datasheet(self, version_id: str) -> DatasheetPage:
        """Return a version's privacy datasheet."""

    async def pulse(self) -> str:
        """Return a mark that changes whenever something on a page may have changed."""

    async def wait(self, timeout_s: float) -> None:
        """Return when something may have changed, at the latest after `timeout_s`."""


class Source(Protocol):
    """Opens view models."""

    async def view(self, token: str) -> ViewModel | None:
        """Return the view of the person whose API token this is; None when the token is not valid."""


class SignInLimiter(Protocol):
    """Remembers failed sign-ins and ended sessions, for every process of the service."""

    async def admit(self, address: str) -> None:
        """Raise TooMany while this address must wait."""

    async def failed(self, address: str) -> None:
        """Note that a token from this address was wrong."""

    async def succeeded(self, address: str) -> None:
        """Forget failed attempts from this address, from which a user signed in."""

    async def end(self, session_id: str, until: datetime) -> None:
        """Believe this session no more; by itself it would have ended then."""

    async def ended(self, session_id: str) -> bool:
        """Return whether it was ended."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """What the pages need from the running service; it lies at `app.state.dashboard`."""

    source: Source
    limiter: SignInLimiter
    sealer: Sealer
    clock: Clock
    origin: str  # where people reach the API, for the commands on the pages
    secure: bool  # whether that is HTTPS, so that the cookie is kept to it
    sign_on: SignOn | None = None  # where an issuer signs people on


def dashboard_of(request: Request) -> Dashboard:
    """Return the dashboard that the service was started with."""
    found = request.app.state.dashboard
    if not isinstance(found, Dashboard):
        raise TypeError("app.state.dashboard is not a Dashboard")
    return found
