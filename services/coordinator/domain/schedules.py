"""Schedules: when a job document is submitted again, by a cron expression in a time zone. Pure.

The expressions are those of Debian's cron, read by `cronsim`, which also says what happens when clocks change.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from itertools import islice
from typing import Any, Final
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from undersong.shared.errors import FieldError, Invalid
from undersong.shared.ids import FederationId, JobId, ScheduleId, UserId
from undersong.shared.names import hint

UPCOMING: Final = 3
"""How many coming times are shown."""


_FIELDS: Final = 5  # a sixth would be seconds
_OF_THIS_MACHINE: Final = frozenset({"localtime"})


@cache
def _zones() -> frozenset[str]:
    """Return the names of the IANA database."""
    return frozenset(available_timezones()) - _OF_THIS_MACHINE


class ScheduleInvalid(Invalid):
    """The cron expression or the time zone is not one."""


class ScheduleOutcome(StrEnum):
    """What came of a scheduled time: a job, none because the last one still ran, or none because it was refused."""

    SUBMITTED = "submitted"
    SKIPPED = "skipped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Timetable:
    """A cron expression in a time zone."""

    cron: str
    timezone: str

    @classmethod
    def parse(cls, cron: str, timezone: str) -> "Timetable":
        """Return a timetable that has a time to come; raises ScheduleInvalid."""
        errors = []
        if timezone not in _zones():
            near = hint(timezone, _zones())
            errors.append(FieldError("/timezone", f"there is no time zone {timezone!r}{near or ', try Europe/Berlin'}"))
        if (fault := _fault(cron)) is not None:
            said = f"this is no cron expression ({fault}): five fields, as in 30 2 * * mon, for Mondays at 02:30"
            errors.append(FieldError("/cron", said))
        if errors:
            raise ScheduleInvalid("The schedule was not made.", errors=errors)
        made = cls(cron, timezone)
        if made.after(datetime.now(UTC)) is None:
            errors = [FieldError("/cron", "this time does not come in the next 50 years")]
            raise ScheduleInvalid("The schedule was not made.", errors=errors)
        return made

    def after(self, moment: datetime) -> datetime | None:
        """Return the first time later than a moment, in UTC; None if none comes in 50 years."""
        return next(self._from(moment), None)

    def upcoming(self, moment: datetime) -> list[datetime]:
        """Return the next times, in UTC."""
        return list(islice(self._from(moment), UPCOMING))

    def words(self) -> str:
        """Return the expression in English: "At 02:30 on Monday"."""
        return CronSim(self.cron, datetime.now(UTC)).explain()

    def _from(self, moment: datetime) -> Iterator[datetime]:
        local = moment.astimezone(ZoneInfo(self.timezone))
        times = (each.astimezone(UTC) for each in CronSim(self.cron, local))
        # in the hour that clocks repeat, cronsim begins with the time of its first half, which has passed
        return (each for each in times if each > moment)


def _fault(cron: str) -> str | None:
    """Return why this is no expression of five fields; None where it is one."""
    if (count := len(cron.split())) != _FIELDS:
        return f"it has {count} fields"
    try:
        CronSim(cron, datetime.now(UTC)).explain()
    except CronSimError as error:
        return str(error)
    return None


@dataclass(frozen=True, slots=True)
class ScheduledTime:
    """The last time of a schedule, and what came of it."""

    at: datetime
    outcome: ScheduleOutcome
    job_id: JobId | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """A job document that is submitted at the times of a timetable, with the roles of the person who made it."""

    id: ScheduleId
    federation_id: FederationId
    name: str
    document: dict[str, Any]
    timetable: Timetable
    overlap: bool
    user_id: UserId
    created_by: str
    created_at: datetime
    next_at: datetime | None
    paused: bool = False
    deleted: bool = False
    last: ScheduledTime | None = None
    last_job_id: JobId | None = None  # of the last time that made one

    def after_last(self, now: datetime) -> datetime | None:
        """Return the next time; what was missed while no worker ran is not made up for."""
        return self.timetable.after(now if self.next_at is None else max(self.next_at, now))
