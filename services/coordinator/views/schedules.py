"""Schedules, as told."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from undersong.services.coordinator.domain.schedules import Schedule, ScheduleOutcome
from undersong.services.coordinator.views import View


class ScheduledTimeView(View):
    """What came of a schedule's last time."""

    at: datetime
    outcome: ScheduleOutcome = Field(
        description="submitted; skipped, as the job of the time before still ran; or refused, for the `reason`."
    )
    job_id: str | None = Field(description="The job that was submitted, or that still ran.")
    reason: str | None = Field(description="Why no job was submitted.")


class ScheduleView(View):
    """A job document that is submitted again and again."""

    id: str = Field(examples=["sch_01m0dwh5mdaecm6yfk3d8y9c8v"])
    federation_id: str
    name: str
    cron: str = Field(examples=["30 2 * * mon"])
    timezone: str = Field(examples=["Europe/Berlin"])
    words: str = Field(description="The cron expression in English.", examples=["At 02:30 on Monday"])
    overlap: bool = Field(description="Whether a job is submitted while the one of the time before still runs.")
    document: dict[str, Any] = Field(description="The job document.")
    created_by: str = Field(description="With whose roles the jobs are submitted.")
    created_at: datetime
    state: Literal["active", "paused", "ended"] = Field(description="ended: the expression has no time to come.")
    upcoming: list[datetime] = Field(description="The next times, in UTC; none while it is paused.")
    last: ScheduledTimeView | None


def schedule_view(schedule: Schedule, now: datetime) -> ScheduleView:
    """As told."""
    last = schedule.last
    waits = schedule.next_at is not None
    return ScheduleView(
        id=schedule.id,
        federation_id=schedule.federation_id,
        name=schedule.name,
        cron=schedule.timetable.cron,
        timezone=schedule.timetable.timezone,
        words=schedule.timetable.words(),
        overlap=schedule.overlap,
        document=schedule.document,
        created_by=schedule.created_by,
        created_at=schedule.created_at,
        state="paused" if schedule.paused else "active" if waits else "ended",
        upcoming=schedule.timetable.upcoming(now) if waits else [],
        last=None
        if last is None
        else ScheduledTimeView(at=last.at, outcome=last.outcome, job_id=last.job_id, reason=last.reason),
    )
