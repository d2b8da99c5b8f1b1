"""Committed sample counts. Only adds."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database.types import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "samples",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("site_id", sa.String(64), nullable=False),
        sa.Column("round_id", sa.String(64), nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.Column("accepted_at", UtcDateTime(), nullable=False),
        sa.Column("logged_in", sa.String(64)),
        sa.PrimaryKeyConstraint("job_id", "site_id", name="pk_samples"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_samples_round_id_rounds"),
    )
