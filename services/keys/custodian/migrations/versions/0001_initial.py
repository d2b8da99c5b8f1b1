"""Rounds, openings, and what the high-water file is compared with."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database.migrations import create_common_tables
from undersong.shared.database.types import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_common_tables()
    op.create_table(
        "rounds",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("manifest_digest", sa.String(64), nullable=False),
        sa.Column("key", sa.LargeBinary),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("asked", sa.LargeBinary),
        sa.Column("checked", sa.LargeBinary),
        sa.Column("total", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="pk_rounds"),
    )
    op.create_index("ix_rounds_expires_at", "rounds", ["expires_at"])
    op.create_table(
        "openings",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("round_id", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "kind", "number", name="pk_openings"),
    )
    standing = op.create_table(
        "standing",
        sa.Column("id", sa.Integer(), autoincrement=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_standing"),
        sa.CheckConstraint("id = 1", name="ck_standing_only_one"),
    )
    op.bulk_insert(standing, [{"id": 1, "epoch": 0, "counter": 0}])
