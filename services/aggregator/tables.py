"""The aggregator's tables; no other service reads or writes them."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from undersong.shared.database import CommonTables, JsonDocument, RowNumber, UtcDateTime, new_metadata


class Base(DeclarativeBase):
    """The aggregator's schema."""

    metadata = new_metadata()


common = CommonTables(Base.metadata)


class RoundRow(Base):
    """One round. `got` counts contributions that stand; `fence` grows with every worker that takes the round.

    `folded`: how many of them were in the sum of the worker that holds the round when it last renewed its lease.

    `step` is the present step of an engine of several steps (null for the others), `step_missing` the number of sites
    that it waits for.
    """

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
    manifest_keyid: Mapped[str | None] = mapped_column(String(64))
    manifest_signature: Mapped[str | None] = mapped_column(String(4096))
    step: Mapped[str | None] = mapped_column(String(32))
    step_missing: Mapped[int | None]
    step_deadline: Mapped[datetime | None] = mapped_column(UtcDateTime())
    engine_public: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
    engine_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    cohort_size: Mapped[int]
    min_cohort: Mapped[int]
    target: Mapped[int]
    got: Mapped[int]
    folded: Mapped[int] = mapped_column(server_default="0")
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
    """One site's update to one round; the first digest is final. `code` says why it does not count.

    `signature`: the site's, over the digest, where the engine has bodies signed.
    """

    __tablename__ = "contributions"
    __table_args__ = (UniqueConstraint("round_id", "site_id"), Index("ix_contributions_digest", "digest"))

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"))
    site_id: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))
    signature: Mapped[bytes | None] = mapped_column(LargeBinary)
    size: Mapped[int] = mapped_column(BigInteger)
    length: Mapped[int | None] = mapped_column(BigInteger)
    layout: Mapped[str | None] = mapped_column(String(64))
    code: Mapped[str | None] = mapped_column(String(64))
    message: Mapped[str | None] = mapped_column(String(500))
    accepted_at: Mapped[datetime] = mapped_column(UtcDateTime())
    receipt: Mapped[dict[str, Any]] = mapped_column(JsonDocument())


class PartRow(Base):
    """A set of a round's contributions that any worker may fold; `fence` is that of the worker that holds the round.

    `members` and `folded` are ids of contributions. Of a submitted part, the sum of `folded` is the blob
    `digest`, sealed under `key`, which is sealed itself.
    """

    __tablename__ = "parts"
    __table_args__ = (Index("ix_parts_round_id_fence", "round_id", "fence"), Index("ix_parts_digest", "digest"))

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"))
    fence: Mapped[int]
    members: Mapped[list[int]] = mapped_column(JsonDocument())
    worker_id: Mapped[str | None] = mapped_column(String(64))
    until: Mapped[datetime | None] = mapped_column(UtcDateTime())
    claim: Mapped[str | None] = mapped_column(String(32))
    handed_in: Mapped[bool] = mapped_column(default=False)
    folded: Mapped[list[int] | None] = mapped_column(JsonDocument())
    digest: Mapped[str | None] = mapped_column(String(64))
    key: Mapped[bytes | None] = mapped_column(LargeBinary)


class ReportIdRow(Base):
    """The id of an accepted report, which no later round of the same job accepts again."""

    __tablename__ = "report_ids"

    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    report_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"))
    site_id: Mapped[str] = mapped_column(String(64))


class NoiseRow(Base):
    """A row of the noise that is correlated over a job's rounds, and the one round whose sum gets it."""

    __tablename__ = "noise_rows"

    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"))


class SampleRow(Base):
    """A site's committed sample count in a job, with its proof. `logged_in`: the round whose record has the proof."""

    __tablename__ = "samples"

    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    site_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"))
    message: Mapped[bytes] = mapped_column(LargeBinary)
    accepted_at: Mapped[datetime] = mapped_column(UtcDateTime())
    logged_in: Mapped[str | None] = mapped_column(String(64))


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


class StepRow(Base):
    """A step that takes no more messages. `members` is whom it is closed over, fixed before anybody is asked."""

    __tablename__ = "steps"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    step: Mapped[str] = mapped_column(String(32), primary_key=True)
    members: Mapped[list[str]] = mapped_column(JsonDocument())
    frozen_at: Mapped[datetime] = mapped_column(UtcDateTime())
    closed_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class StepMessageRow(Base):
    """One site's message in one step; the first digest is final. `body` is sealed, and deleted once it is used."""

    __tablename__ = "step_messages"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    step: Mapped[str] = mapped_column(String(32), primary_key=True)
    site_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    public_key: Mapped[str] = mapped_column(String(64))
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    accepted_at: Mapped[datetime] = mapped_column(UtcDateTime())


class StepAnswerRow(Base):
    """Which site gets which answer to a step; a site without one dropped out of the round there."""

    __tablename__ = "step_answers"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    step: Mapped[str] = mapped_column(String(32), primary_key=True)
    site_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))


class StepBodyRow(Base):
    """An answer's bytes, once for all who get them; deleted when the round ends."""

    __tablename__ = "step_bodies"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)


class LostSiteRow(Base):
    """A site that the coordinator gave up for this round."""

    __tablename__ = "lost_sites"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    site_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime())


class FaultRow(Base):
    """What a site did against a round's protocol, as the engine found; `code` names the kind."""

    __tablename__ = "faults"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    site_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    code: Mapped[str] = mapped_column(String(64), primary_key=True)
    detail: Mapped[str] = mapped_column(String(500))
    at: Mapped[datetime] = mapped_column(UtcDateTime())


class RecordRow(Base):
    """What the log is told of a round: written with the result, so that a crash cannot forget it."""

    __tablename__ = "records"
    __table_args__ = (Index("ix_records_next_try_at", "next_try_at"),)

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    facts: Mapped[dict[str, Any]] = mapped_column(JsonDocument())
    result: Mapped[dict[str, Any] | None] = mapped_column(JsonDocument())
    tries: Mapped[int]
    next_try_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    posted_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    refused: Mapped[str | None] = mapped_column(String(500))
