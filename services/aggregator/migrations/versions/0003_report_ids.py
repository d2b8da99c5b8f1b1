"""Ids of reports, each taken once in a job. Only adds."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "report_ids",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("report_id", sa.String(32), nullable=False),
        sa.Column("round_id", sa.String(64), nullable=False),
        sa.Column("site_id", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "report_id", name="pk_report_ids"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_report_ids_round_id_rounds"),
    )
