"""The coordinator's tables. Rows never leave the repository.

Every table with a state machine has `version` (optimistic) and its deadlines as columns, so that a sweeper can find
what waits too long without knowing why.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from undersong.shared.database import CommonTables, JsonDocument, RowNumber, UtcDateTime, new_metadata

Id = String(40)
Word = String(40)
Title = String(200)


class Base(DeclarativeBase):
    """All tables of this service."""

    metadata = new_metadata()


common = CommonTables(Base.metadata)


class PlatformRow(Base):
    """One row: the epoch of this database, and since when the API has been there to hear sites."""

    __tablename__ = "platform"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int]
    watching_since: Mapped[datetime | None] = mapped_column(UtcDateTime())
    watched_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class FederationRow(Base):
    """Organisations that learn together."""

    __tablename__ = "federations"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(Title, unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())


class SiteRow(Base):
    """One organisation's place in a federation."""

    __tablename__ = "sites"
    __table_args__ = (UniqueConstraint("federation_id", "name"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    federation_id: Mapped[str] = mapped_column(Id, ForeignKey("federations.id"))
    name: Mapped[str] = mapped_column(Title)
    owner: Mapped[str] = mapped_column(Title)
    suspended: Mapped[bool] = mapped_column(default=False)
    profile: Mapped[dict[str, Any] | None] = mapped_column(JsonDocument())
    profile_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    last_seen_at: Mapped[datetime | None] = mapped_column(UtcDateTime(), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())


class JobRow(Base):
    """A job; `events` counts its event rows, so that their numbers have neither gaps nor late comers."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_state_next_check_at", "state", "next_check_at"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    federation_id: Mapped[str] = mapped_column(Id, ForeignKey("federations.id"), index=True)
    name: Mapped[str] = mapped_column(Title)
    state: Mapped[str] = mapped_column(Word)
    version: Mapped[int]
    reason: Mapped[str | None] = mapped_column(Title)
    spec: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
    resolved: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
    created_by: Mapped[str] = mapped_column(Title)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    next_check_at: Mapped[datetime] = mapped_column(UtcDateTime())
    model_id: Mapped[str | None] = mapped_column(Id)
    version_id: Mapped[str | None] = mapped_column(Id)
    version_digest: Mapped[str | None] = mapped_column(String(64))
    context: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
    progress: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
    results: Mapped[list[dict[str, Any]] | None] = mapped_column(JsonDocument())
    last_failure: Mapped[str | None] = mapped_column(Title)
    round_id: Mapped[str | None] = mapped_column(Id)
    waiting_since: Mapped[datetime | None] = mapped_column(UtcDateTime())
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    events: Mapped[int] = mapped_column(default=0)


class RoundRow(Base):
    """One attempt at one step of a job."""

    __tablename__ = "rounds"
    __table_args__ = (
        UniqueConstraint("job_id", "kind", "number", "attempt"),
        Index("ix_rounds_phase_next_check_at", "phase", "next_check_at"),
        Index("ix_rounds_phase_finished_at", "phase", "finished_at", "kind", "created_at"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id"))
    kind: Mapped[str] = mapped_column(Word)
    number: Mapped[int]
    attempt: Mapped[int]
    phase: Mapped[str] = mapped_column(Word)
    version: Mapped[int]
    reason: Mapped[str | None] = mapped_column(Title)
    cohort: Mapped[list[str]] = mapped_column(JsonDocument())
    min_cohort: Mapped[int]
    target: Mapped[int]
    outstanding: Mapped[int]
    got: Mapped[int]
    closing: Mapped[bool]
    deadline_s: Mapped[float]
    deadline_at: Mapped[datetime] = mapped_column(UtcDateTime())
    next_check_at: Mapped[datetime] = mapped_column(UtcDateTime())
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    opened_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    manifest: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
    engine_public: Mapped[dict[str, Any] | None] = mapped_column(JsonDocument())
    result: Mapped[dict[str, Any] | None] = mapped_column(JsonDocument())
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JsonDocument())
    unreported: Mapped[bool] = mapped_column(default=False)
    uncancelled: Mapped[bool] = mapped_column(default=False)


class TaskRow(Base):
    """One site's part in one round. The partial unique index is the last word on "one lease per site"."""

    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("round_id", "site_id"),
        Index("ix_tasks_state_lease_expires_at", "state", "lease_expires_at"),
        Index("ix_tasks_site_id_state", "site_id", "state"),
        Index("ix_tasks_state_finished_at", "state", "finished_at"),
        Index(
            "ix_tasks_at_fault",
            "job_id",
            sqlite_where=text("code = 'dealer-at-fault'"),
            postgresql_where=text("code = 'dealer-at-fault'"),
        ),
        Index(
            "uq_tasks_one_lease_per_site",
            "site_id",
            unique=True,
            sqlite_where=text("state = 'leased'"),
            postgresql_where=text("state = 'leased'"),
        ),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    round_id: Mapped[str] = mapped_column(Id, ForeignKey("rounds.id"))
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id"))
    site_id: Mapped[str] = mapped_column(Id, ForeignKey("sites.id"))
    kind: Mapped[str] = mapped_column(Word)
    state: Mapped[str] = mapped_column(Word)
    version: Mapped[int]
    attempt: Mapped[int]
    lease_token: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    progress: Mapped[float]
    phase: Mapped[str | None] = mapped_column(Title)
    digest: Mapped[str | None] = mapped_column(String(64))
    code: Mapped[str | None] = mapped_column(Title)
    message: Mapped[str | None] = mapped_column(Text)
    trace: Mapped[list[str]] = mapped_column(JsonDocument())
    metrics: Mapped[dict[str, float] | None] = mapped_column(JsonDocument())
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime())
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class JobEventRow(Base):
    """Append only: what happened to a job, by number. One row for each change of state."""

    __tablename__ = "job_events"
    __table_args__ = (UniqueConstraint("job_id", "number"),)

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id"))
    number: Mapped[int]
    type: Mapped[str] = mapped_column(Word)
    actor: Mapped[str] = mapped_column(Title)
    data: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
    trace: Mapped[str | None] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())


class WebhookRow(Base):
    """An address of a federation's that is told what happens to its jobs; the secret is sealed."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    federation_id: Mapped[str] = mapped_column(Id, ForeignKey("federations.id"), index=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(JsonDocument())
    secret: Mapped[bytes]
    created_by: Mapped[str] = mapped_column(Title)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class DeliveryRow(Base):
    """One event on its way to one webhook; without a job it is a test message."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("webhook_id", "job_id", "number"),
        Index("ix_webhook_deliveries_state_next_attempt_at", "state", "next_attempt_at"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    webhook_id: Mapped[str] = mapped_column(Id, ForeignKey("webhooks.id"))
    type: Mapped[str] = mapped_column(Word)
    job_id: Mapped[str | None] = mapped_column(Id, ForeignKey("jobs.id"))
    number: Mapped[int | None]
    state: Mapped[str] = mapped_column(Word)
    attempts: Mapped[int]
    answer: Mapped[str | None] = mapped_column(Title)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    next_attempt_at: Mapped[datetime] = mapped_column(UtcDateTime())
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class ScheduleRow(Base):
    """A job document that is submitted again and again; what came of the last time."""

    __tablename__ = "schedules"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    federation_id: Mapped[str] = mapped_column(Id, ForeignKey("federations.id"), index=True)
    name: Mapped[str] = mapped_column(Title)
    document: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
    cron: Mapped[str] = mapped_column(Title)
    timezone: Mapped[str] = mapped_column(Title)
    overlap: Mapped[bool]
    user_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"))
    created_by: Mapped[str] = mapped_column(Title)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    paused: Mapped[bool]
    next_at: Mapped[datetime | None] = mapped_column(UtcDateTime(), index=True)
    last_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    last_outcome: Mapped[str | None] = mapped_column(Word)
    last_reason: Mapped[str | None] = mapped_column(Text)
    last_job_id: Mapped[str | None] = mapped_column(Id, ForeignKey("jobs.id"))
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class SweepRow(Base):
    """A job document whose changes become jobs; `open` while one of them waits for its turn."""

    __tablename__ = "sweeps"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    federation_id: Mapped[str] = mapped_column(Id, ForeignKey("federations.id"), index=True)
    name: Mapped[str] = mapped_column(Title)
    document: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
    parallel: Mapped[int]
    user_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"))
    created_by: Mapped[str] = mapped_column(Title)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    cancelled_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    epsilon: Mapped[float | None]
    delta: Mapped[float | None]
    open: Mapped[bool] = mapped_column(index=True)


class SweepJobRow(Base):
    """One place of a sweep: its changes, and its job or why it was refused."""

    __tablename__ = "sweep_jobs"

    sweep_id: Mapped[str] = mapped_column(Id, ForeignKey("sweeps.id"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    changes: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
    job_id: Mapped[str | None] = mapped_column(Id, ForeignKey("jobs.id"))
    reason: Mapped[str | None] = mapped_column(Text)


class UserRow(Base):
    """A person, or a program that acts for one."""

    __tablename__ = "users"
    __table_args__ = (Index("ix_users_issuer_subject", "issuer", "subject", unique=True),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(Title, unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    issuer: Mapped[str | None] = mapped_column(Text)  # who signs the person on; None: API tokens alone
    subject: Mapped[str | None] = mapped_column(Text)  # the person's name there
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class GrantRow(Base):
    """A role of a user; `federation_id` of "*" is every federation."""

    __tablename__ = "grants"

    user_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"), primary_key=True)
    role: Mapped[str] = mapped_column(Word, primary_key=True)
    federation_id: Mapped[str] = mapped_column(Id, primary_key=True)


class TokenRow(Base):
    """An API token, by its SHA-256; the token itself is shown once and never stored."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    user_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(Title)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    scopes: Mapped[list[str] | None] = mapped_column(JsonDocument())  # None: all that the user may
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime())  # to the minute
    sign_on: Mapped[bool] = mapped_column(server_default=text("false"))  # made by a sign-on, not by hand


class AuditEntryRow(Base):
    """Append only: who changed what about sites, people and their rights; `federation_id` of null: the platform."""

    __tablename__ = "audit_entries"
    __table_args__ = (Index("ix_audit_entries_federation_id_id", "federation_id", "id"),)

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime())
    actor_id: Mapped[str] = mapped_column(Id)
    actor: Mapped[str] = mapped_column(Title)
    action: Mapped[str] = mapped_column(Word)
    subject: Mapped[str] = mapped_column(Id)
    federation_id: Mapped[str | None] = mapped_column(Id)
    data: Mapped[dict[str, Any]] = mapped_column(JsonDocument())


class PendingActionRow(Base):
    """A change that takes two persons: asked for by one, and confirmed by another within a time."""

    __tablename__ = "pending_actions"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    action: Mapped[str] = mapped_column(Word)
    subject: Mapped[str] = mapped_column(Id)
    name: Mapped[str] = mapped_column(Title)
    federation_id: Mapped[str | None] = mapped_column(Id)
    data: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
    reason: Mapped[str] = mapped_column(Title)
    state: Mapped[str] = mapped_column(Word)
    requested_by: Mapped[str] = mapped_column(Id, ForeignKey("users.id"))
    requester: Mapped[str] = mapped_column(Title)
    requested_at: Mapped[datetime] = mapped_column(UtcDateTime())
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime())
    decider: Mapped[str | None] = mapped_column(Title)
    decided_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class SignInFailureRow(Base):
    """Failed sign-ins at the dashboard from one address (for IPv6, one network of 64 bits)."""

    __tablename__ = "sign_in_failures"

    address: Mapped[str] = mapped_column(String(64), primary_key=True)
    failures: Mapped[int] = mapped_column()
    until: Mapped[datetime] = mapped_column(UtcDateTime())  # they count until then


class EndedSessionRow(Base):
    """A dashboard session that was signed out; its sealed cookie is worth nothing from then on."""

    __tablename__ = "ended_sessions"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    until: Mapped[datetime] = mapped_column(UtcDateTime())  # when the cookie ends by itself
