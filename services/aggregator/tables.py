"""The aggregator's tables; nobody else reads or writes them."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.database import CommonTables, JsonDocument, RowNumber, UtcDateTime, new_metadata


class Base(DeclarativeBase):
    """The aggregator's schema."""

    metadata = new_metadata()


common = CommonTables(Base.metadata)


class RoundRow(Base):
    """One round. `got` counts contributions that stand; `fence` grows with every worker that takes the round."""

    __tablename__ = "rounds"
    __table_args__ = (
        Index("ix_rounds_phase", "phase"),
        Index("ix_rounds_job_id_version_id", "job_id", "version_id"),
        Index("ix_rounds_content_digest", "content_digest"),
        Index("ix_rounds_state_digest", "state_digest"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    federation_id: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    phase: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(String(64))
    version: Mapped[int]
    manifest_digest: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[str] = mapped_column(Text)  # as signed; JSONB would rewrite its numbers
    engine_public: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
    engine_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    cohort_size: Mapped[int]
    min_cohort: Mapped[int]
    target: Mapped[int]
    got: Mapped[int]
    rejected: Mapped[int]
    length: Mapped[int | None] = mapped_column(BigInteger)
    layout: Mapped[str | None] = mapped_column(String(64))
    deadline: Mapped[datetime] = mapped_column(UtcDateTime())
    finish_by: Mapped[datetime] = mapped_column(UtcDateTime())
    next_check_at: Mapped[datetime] = mapped_column(UtcDateTime())
    worker_id: Mapped[str | None] = mapped_column(String(64))
    worker_until: Mapped[datetime | None] = mapped_column(UtcDateTime())
    fence: Mapped[int]
    failures: Mapped[int]
    opened_at: Mapped[datetime] = mapped_column(UtcDateTime())
    moved_at: Mapped[datetime] = mapped_column(UtcDateTime())
    scrubbed_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    version_id: Mapped[str | None] = mapped_column(String(64))
    content_digest: Mapped[str | None] = mapped_column(String(64))
    state_digest: Mapped[str | None] = mapped_column(String(64))
    model_length: Mapped[int | None] = mapped_column(BigInteger)
    keeps_blobs: Mapped[bool]
    result: Mapped[dict[str, Any] | None] = mapped_column(JsonDocument())


class ContributionRow(Base):
    """One site's update to one round; the first digest stands for ever. `code` says why it does not count."""

    __tablename__ = "contributions"
    __table_args__ = (UniqueConstraint("round_id", "site_id"), Index("ix_contributions_digest", "digest"))

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"))
    site_id: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    code: Mapped[str | None] = mapped_column(String(64))
    message: Mapped[str | None] = mapped_column(String(500))
    accepted_at: Mapped[datetime] = mapped_column(UtcDateTime())
    receipt: Mapped[dict[str, Any]] = mapped_column(JsonDocument())


class PublicationRow(Base):
    """What the registry is asked to store for a round: written before it is asked, so that a crash re-finds it."""

    __tablename__ = "publications"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    model_id: Mapped[str] = mapped_column(String(64))
    body: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
    intended_at: Mapped[datetime] = mapped_column(UtcDateTime())
    version_id: Mapped[str | None] = mapped_column(String(64))


class RoundEventRow(Base):
    """What happened to a round and who caused it; rows are only ever added."""

    __tablename__ = "round_events"
    __table_args__ = (Index("ix_round_events_round_id", "round_id"),)

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"))
    at: Mapped[datetime] = mapped_column(UtcDateTime())
    type: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(160))
    detail: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
