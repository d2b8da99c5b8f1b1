"""Every use case of the API, made once per process and handed to the routes."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from undersong.services.coordinator.accounts import Accounts
from undersong.services.coordinator.attendance import Attendance
from undersong.services.coordinator.clones import Clones
from undersong.services.coordinator.domain.two_persons import ONE_PERSON, TwoPersonRule
from undersong.services.coordinator.federations import Federations
from undersong.services.coordinator.job_comparisons import JobComparisons
from undersong.services.coordinator.job_timelines import JobTimelines
from undersong.services.coordinator.jobs import Jobs
from undersong.services.coordinator.leases import Leases, Timing
from undersong.services.coordinator.operations import Operations
from undersong.services.coordinator.peers.registry import Registry
from undersong.services.coordinator.schedules import Schedules
from undersong.services.coordinator.sign_on import SignOn
from undersong.services.coordinator.signins import SignIns
from undersong.services.coordinator.sites import Sites
from undersong.services.coordinator.sweeps import Sweeps
from undersong.services.coordinator.tasks import Tasks
from undersong.services.coordinator.two_persons import TwoPersons
from undersong.services.coordinator.webhooks import Webhooks
from undersong.shared.database import Database
from undersong.shared.identity.sealing import Sealer
from undersong.shared.queues import Notifier


@dataclass(frozen=True)
class UseCases:
    """The use cases, and the notifier that wakes long polls."""

    federations: Federations
    sites: Sites
    jobs: Jobs
    comparisons: JobComparisons
    timelines: JobTimelines
    clones: Clones
    schedules: Schedules
    sweeps: Sweeps
    leases: Leases
    tasks: Tasks
    accounts: Accounts
    signins: SignIns
    operations: Operations
    attendance: Attendance
    webhooks: Webhooks
    two_persons: TwoPersons
    notifier: Notifier
    timing: Timing
    sign_on: SignOn | None = None


def build_use_cases(
    database: Database,
    notifier: Notifier,
    sealer: Sealer,
    registry: Registry,
    timing: Timing,
    stopping: asyncio.Event,
    webhook_origins: Collection[str] = (),
    sign_on: SignOn | None = None,
    rule: TwoPersonRule = ONE_PERSON,
) -> UseCases:
    """Return the use cases over one database; `stopping` ends long polls."""
    attendance = Attendance(database, notifier, timing.lease_s)
    jobs = Jobs(database, registry, timing.lease)
    return UseCases(
        federations=Federations(database),
        sites=Sites(database, attendance, timing.lease, rule),
        jobs=jobs,
        comparisons=JobComparisons(database),
        timelines=JobTimelines(database),
        clones=Clones(jobs),
        schedules=Schedules(database, jobs),
        sweeps=Sweeps(database, jobs),
        leases=Leases(database, notifier, attendance, timing, stopping),
        tasks=Tasks(database, attendance, timing),
        accounts=Accounts(database, sealer, rule),
        signins=SignIns(database),
        operations=Operations(database, notifier),
        attendance=attendance,
        two_persons=TwoPersons(database, rule),
        webhooks=Webhooks(database, sealer, webhook_origins),
        notifier=notifier,
        timing=timing,
        sign_on=sign_on,
    )
