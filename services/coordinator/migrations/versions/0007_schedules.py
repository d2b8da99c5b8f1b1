"""Schedules of jobs. Only adds a table."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import JsonDocument, UtcDateTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", sa.String(40)),
        sa.Column("federation_id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("document", JsonDocument(), nullable=False),
        sa.Column("cron", sa.String(200), nullable=False),
        sa.Column("timezone", sa.String(200), nullable=False),
        sa.Column("overlap", sa.Boolean(), nullable=False),
        sa.Column("user_id", sa.String(40), nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("next_at", UtcDateTime(), nullable=True),
        sa.Column("last_at", UtcDateTime(), nullable=True),
        sa.Column("last_outcome", sa.String(40), nullable=True),
        sa.Column("last_reason", sa.Text(), nullable=True),
        sa.Column("last_job_id", sa.String(40), nullable=True),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_schedules"),
        sa.ForeignKeyConstraint(["federation_id"], ["federations.id"], name="fk_schedules_federation_id_federations"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_schedules_user_id_users"),
        sa.ForeignKeyConstraint(["last_job_id"], ["jobs.id"], name="fk_schedules_last_job_id_jobs"),
    )
    op.create_index("ix_schedules_federation_id", "schedules", ["federation_id"])
    op.create_index("ix_schedules_next_at", "schedules", ["next_at"])


def downgrade() -> None:
    op.drop_table("schedules")
