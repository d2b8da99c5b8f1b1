"""Rounds, reports and openings."""

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
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("manifest_digest", sa.String(64), nullable=False),
        sa.Column("keys", sa.LargeBinary),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("length", sa.BigInteger),
        sa.Column("members", sa.LargeBinary),
        sa.Column("root", sa.LargeBinary),
        sa.Column("share_digest", sa.LargeBinary),
        sa.Column("accepted", sa.LargeBinary),
        sa.Column("agreed_at", UtcDateTime()),
        sa.PrimaryKeyConstraint("id", name="pk_rounds"),
    )
    op.create_index("ix_rounds_expires_at", "rounds", ["expires_at"])
    op.create_table(
        "reports",
        sa.Column("round_id", sa.String(64), nullable=False),
        sa.Column("site_id", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("report_id", sa.String(32), nullable=False),
        sa.Column("question", sa.String(64), nullable=False),
        sa.Column("body_digest", sa.String(64), nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("helper_share", sa.LargeBinary),
        sa.Column("message", sa.LargeBinary),
        sa.Column("code", sa.String(64)),
        sa.Column("detail", sa.String(500)),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("round_id", "site_id", name="pk_reports"),
        sa.UniqueConstraint("job_id", "report_id", name="uq_reports_job_id"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_reports_round_id_rounds"),
    )
    op.create_table(
        "openings",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("round_id", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "kind", "number", name="pk_openings"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_openings_round_id_rounds"),
    )
