"""The registry's tables; no other service reads or writes them."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from undersong.shared.database import CommonTables, JsonDocument, RowNumber, UtcDateTime, new_metadata


class Base(DeclarativeBase):
    """The service's own metadata."""

    metadata = new_metadata()
    common = CommonTables(metadata)


class ModelRow(Base):
    """A named line of versions; `versions` gives the next number."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("federation_id", "name"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    federation_id: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(100))
    versions: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    created_by: Mapped[str] = mapped_column(String(160))


class ContentRow(Base):
    """Content that was sent to us; its file is kept at least a day after `touched_at`, and while a version needs it.

    The row is written before the file and goes before it; its lock orders uploads, publications and clearing away.
    """

    __tablename__ = "contents"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    touched_at: Mapped[datetime] = mapped_column(UtcDateTime(), index=True)


class ClaimRow(Base):
    """A federation that uploaded content, whole, and may publish versions over it.

    Kept for as long as `ContentRow` says, counted for this federation alone: what others do with the same content
    neither prolongs nor ends a claim.
    """

    __tablename__ = "content_claims"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    federation_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    touched_at: Mapped[datetime] = mapped_column(UtcDateTime(), index=True)


class VersionRow(Base):
    """One version. Nothing changes but the tombstone."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        UniqueConstraint("model_id", "natural_key"),
        Index("ix_versions_content_digest", "content_digest"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    federation_id: Mapped[str] = mapped_column(String(64))
    number: Mapped[int]
    natural_key: Mapped[str] = mapped_column(String(200))
    content_digest: Mapped[str] = mapped_column(String(64))
    tensor_digest: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    tensors: Mapped[Any] = mapped_column(JsonDocument())
    lineage: Mapped[str] = mapped_column(Text)  # as signed; JSONB would rewrite its numbers
    signatures: Mapped[Any] = mapped_column(JsonDocument())
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    created_by: Mapped[str] = mapped_column(String(160))
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    deleted_by: Mapped[str | None] = mapped_column(String(160))
    deletion_reason: Mapped[str | None] = mapped_column(String(500))


class AliasRow(Base):
    """A name that points at one version of a model, for example champion."""

    __tablename__ = "aliases"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"), index=True)
    set_at: Mapped[datetime] = mapped_column(UtcDateTime())
    set_by: Mapped[str] = mapped_column(String(160))


class EvaluationRow(Base):
    """Metrics measured after publication; rows are only ever added."""

    __tablename__ = "evaluations"

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"), index=True)
    metrics: Mapped[Any] = mapped_column(JsonDocument())
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime())
    recorded_by: Mapped[str] = mapped_column(String(160))


class AuditRow(Base):
    """Privacy audits after publication; rows are only ever added."""

    __tablename__ = "audits"

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"), index=True)
    document: Mapped[str] = mapped_column(Text)  # as signed; JSONB would rewrite its numbers
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime())
    recorded_by: Mapped[str] = mapped_column(String(160))
    keyid: Mapped[str] = mapped_column(String(64))
    signature: Mapped[str] = mapped_column(String(128))


class DatasheetRow(Base):
    """Privacy datasheets of versions, as the coordinator signed them; rows are only ever added, the newest counts."""

    __tablename__ = "datasheets"
    __table_args__ = (UniqueConstraint("version_id", "digest"),)

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"), index=True)
    digest: Mapped[str] = mapped_column(String(64))
    document: Mapped[str] = mapped_column(Text)  # as signed; JSONB would rewrite its numbers
    audits: Mapped[int]  # how many it tells of
    made_at: Mapped[datetime] = mapped_column(UtcDateTime())
    stored_at: Mapped[datetime] = mapped_column(UtcDateTime())


class ActionRow(Base):
    """Who did what: rows are only ever added."""

    __tablename__ = "actions"

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime())
    actor: Mapped[str] = mapped_column(String(160))
    action: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(64), index=True)
    detail: Mapped[Any] = mapped_column(JsonDocument(), nullable=True)
