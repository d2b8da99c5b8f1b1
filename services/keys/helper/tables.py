"""The helper's tables. No other service reads or writes them, not even the keys service."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from undersong.shared.database import CommonTables, UtcDateTime, new_metadata


class Base(DeclarativeBase):
    """The helper's schema."""

    metadata = new_metadata()


common = CommonTables(Base.metadata)


class RoundRow(Base):
    """One round. `keys` are encrypted and erased at the end; the agreed set is written once and kept."""

    __tablename__ = "rounds"
    __table_args__ = (Index("ix_rounds_expires_at", "expires_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[str] = mapped_column(Text)  # signed, as it came
    manifest_digest: Mapped[str] = mapped_column(String(64))
    keys: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime())
    length: Mapped[int | None] = mapped_column(BigInteger)  # of every report, where the manifest says it
    members: Mapped[bytes | None] = mapped_column(LargeBinary)  # from here on: the agreement
    root: Mapped[bytes | None] = mapped_column(LargeBinary)
    share_digest: Mapped[bytes | None] = mapped_column(LargeBinary)
    accepted: Mapped[bytes | None] = mapped_column(LargeBinary)  # the answer
    agreed_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class ReportRow(Base):
    """One site's report and the one verdict on it. `helper_share` is HPKE's ciphertext, erased at the end."""

    __tablename__ = "reports"
    __table_args__ = (UniqueConstraint("job_id", "report_id", name="uq_reports_job_id"),)

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    site_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(String(64))
    report_id: Mapped[str] = mapped_column(String(32))
    question: Mapped[str] = mapped_column(String(64))  # digest of all that was asked about it
    body_digest: Mapped[str] = mapped_column(String(64))
    length: Mapped[int] = mapped_column(BigInteger)
    helper_share: Mapped[bytes | None] = mapped_column(LargeBinary)
    message: Mapped[bytes | None] = mapped_column(LargeBinary)  # null: refused
    code: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[str | None] = mapped_column(String(500))
    at: Mapped[datetime] = mapped_column(UtcDateTime())


class OpeningRow(Base):
    """Which attempt at a round of a job the helper gave its share for: one, whatever the round's id.

    Also, as of kind `noise-row`, which attempt got a row of the noise that is correlated over a job's rounds.
    """

    __tablename__ = "openings"

    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    round_id: Mapped[str] = mapped_column(String(64))  # a restored copy may not know the round


class StandingRow(Base):
    """What the high-water file is compared with: both only grow unless the database was restored."""

    __tablename__ = "standing"
    __table_args__ = (CheckConstraint("id = 1", name="only_one"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(BigInteger)
    counter: Mapped[int] = mapped_column(BigInteger)  # rounds begun, verdicts and signatures given
