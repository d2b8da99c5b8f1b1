"""A custodian's tables. No other service reads or writes them."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from undersong.shared.database import CommonTables, UtcDateTime, new_metadata


class Base(DeclarativeBase):
    """The custodian's schema."""

    metadata = new_metadata()


common = CommonTables(Base.metadata)


class CustodianRoundRow(Base):
    """One round. `key` and `total` are encrypted and erased at the end; what was asked is written once and kept."""

    __tablename__ = "rounds"
    __table_args__ = (Index("ix_rounds_expires_at", "expires_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    manifest: Mapped[str] = mapped_column(Text)  # signed, as it came
    manifest_digest: Mapped[str] = mapped_column(String(64))
    key: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime())
    asked: Mapped[bytes | None] = mapped_column(LargeBinary)  # from here on: the one set
    checked: Mapped[bytes | None] = mapped_column(LargeBinary)  # the answer
    total: Mapped[bytes | None] = mapped_column(LargeBinary)


class GivenSumRow(Base):
    """Which attempt at a round of a job the custodian gave its sum of shares for: one, whatever the round's id."""

    __tablename__ = "openings"

    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    round_id: Mapped[str] = mapped_column(String(64))  # a restored copy may not know the round


class CustodianMarkRow(Base):
    """What the high-water file is compared with: both only grow unless the database was restored."""

    __tablename__ = "standing"
    __table_args__ = (CheckConstraint("id = 1", name="only_one"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(BigInteger)
    counter: Mapped[int] = mapped_column(BigInteger)  # rounds begun, sets answered, sums given
