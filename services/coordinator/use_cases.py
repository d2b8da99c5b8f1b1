"""Every use case of the API, made once per process and handed to the routes."""

import asyncio
from dataclasses import dataclass

from undersong.services.coordinator.accounts import Accounts
from undersong.services.coordinator.attendance import Attendance
from undersong.services.coordinator.federations import Federations
from undersong.services.coordinator.jobs import Jobs
from undersong.services.coordinator.leases import Leases, Timing
from undersong.services.coordinator.operations import Operations
from undersong.services.coordinator.peers.registry import Registry
from undersong.services.coordinator.signins import SignIns
from undersong.services.coordinator.sites import Sites
from undersong.services.coordinator.tasks import Tasks
from undersong.shared.database import Database
from undersong.shared.identity.sealing import Sealer
from undersong.shared.queues import Notifier


@dataclass(frozen=True)
class UseCases:
    """The use cases, and the notifier that wakes long polls."""

    federations: Federations
    sites: Sites
    jobs: Jobs
    leases: Leases
    tasks: Tasks
    accounts: Accounts
    signins: SignIns
    operations: Operations
    attendance: Attendance
    notifier: Notifier
    timing: Timing


def build_use_cases(
    database: Database, notifier: Notifier, sealer: Sealer, registry: Registry, timing: Timing, stopping: asyncio.Event
) -> UseCases:
    """Return the use cases over one database; `stopping` ends long polls."""
    attendance = Attendance(database, notifier, timing.lease_s)
    return UseCases(
        federations=Federations(database),
        sites=Sites(database, attendance, timing.lease),
        jobs=Jobs(database, registry, timing.lease),
        leases=Leases(database, notifier, attendance, timing, stopping),
        tasks=Tasks(database, attendance, timing),
        accounts=Accounts(database, sealer),
        signins=SignIns(database),
        operations=Operations(database, notifier),
        attendance=attendance,
        notifier=notifier,
        timing=timing,
    )
