"""Rows of noise that is correlated over rounds, and which sums got them. Only adds."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "noise_rows",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("row", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("round_id", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_noise_rows_round_id_rounds"),
        sa.PrimaryKeyConstraint("job_id", "row", name="pk_noise_rows"),
    )
