"""The first tables."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import JsonDocument, RowNumber, UtcDateTime
from undersong.shared.database.migrations import create_common_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_common_tables()
    _create_models()
    _create_versions()
    _create_records()


def _create_models() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.String(40)),
        sa.Column("federation_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("versions", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("created_by", sa.String(160), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("federation_id", "name", name="uq_models_federation_id_name"),
    )
    op.create_table(
        "contents",
        sa.Column("digest", sa.String(64)),
        sa.Column("touched_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_contents"),
    )
    op.create_index("ix_contents_touched_at", "contents", ["touched_at"])


def _create_versions() -> None:
    op.create_table(
        "versions",
        sa.Column("id", sa.String(40)),
        sa.Column("model_id", sa.String(40), nullable=False),
        sa.Column("federation_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("natural_key", sa.String(200), nullable=False),
        sa.Column("content_digest", sa.String(64), nullable=False),
        sa.Column("tensor_digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("tensors", JsonDocument(), nullable=False),
        sa.Column("lineage", sa.Text(), nullable=False),
        sa.Column("signatures", JsonDocument(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("created_by", sa.String(160), nullable=False),
        sa.Column("deleted_at", UtcDateTime()),
        sa.Column("deleted_by", sa.String(160)),
        sa.Column("deletion_reason", sa.String(500)),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_versions_model_id_models"),
        sa.UniqueConstraint("model_id", "number", name="uq_versions_model_id_number"),
        sa.UniqueConstraint("model_id", "natural_key", name="uq_versions_model_id_natural_key"),
    )
    op.create_index("ix_versions_content_digest", "versions", ["content_digest"])


def _create_records() -> None:
    op.create_table(
        "aliases",
        sa.Column("model_id", sa.String(40)),
        sa.Column("name", sa.String(40)),
        sa.Column("version_id", sa.String(40), nullable=False),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.Column("set_by", sa.String(160), nullable=False),
        sa.PrimaryKeyConstraint("model_id", "name", name="pk_aliases"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_aliases_model_id_models"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_aliases_version_id_versions"),
    )
    op.create_index("ix_aliases_version_id", "aliases", ["version_id"])
    op.create_table(
        "evaluations",
        sa.Column("id", RowNumber, primary_key=True, autoincrement=True),
        sa.Column("version_id", sa.String(40), nullable=False),
        sa.Column("metrics", JsonDocument(), nullable=False),
        sa.Column("recorded_at", UtcDateTime(), nullable=False),
        sa.Column("recorded_by", sa.String(160), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_evaluations_version_id_versions"),
    )
    op.create_index("ix_evaluations_version_id", "evaluations", ["version_id"])
    op.create_table(
        "actions",
        sa.Column("id", RowNumber, primary_key=True, autoincrement=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("actor", sa.String(160), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("detail", JsonDocument()),
        sa.PrimaryKeyConstraint("id", name="pk_actions"),
    )
    op.create_index("ix_actions_subject", "actions", ["subject"])
