"""Sweeps of jobs. Only adds tables."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import JsonDocument, UtcDateTime

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(40)),
        sa.Column("federation_id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("document", JsonDocument(), nullable=False),
        sa.Column("parallel", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.String(40), nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("cancelled_at", UtcDateTime(), nullable=True),
        sa.Column("epsilon", sa.Double(), nullable=True),
        sa.Column("delta", sa.Double(), nullable=True),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sweeps"),
        sa.ForeignKeyConstraint(["federation_id"], ["federations.id"], name="fk_sweeps_federation_id_federations"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_sweeps_user_id_users"),
    )
    op.create_index("ix_sweeps_federation_id", "sweeps", ["federation_id"])
    op.create_index("ix_sweeps_open", "sweeps", ["open"])
    op.create_table(
        "sweep_jobs",
        sa.Column("sweep_id", sa.String(40), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("changes", JsonDocument(), nullable=False),
        sa.Column("job_id", sa.String(40), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("sweep_id", "place", name="pk_sweep_jobs"),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name="fk_sweep_jobs_sweep_id_sweeps"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_sweep_jobs_job_id_jobs"),
    )


def downgrade() -> None:
    op.drop_table("sweep_jobs")
    op.drop_table("sweeps")
