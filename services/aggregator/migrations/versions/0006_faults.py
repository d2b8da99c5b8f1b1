"""Which sites broke a round's protocol. Only adds."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database.types import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "faults",
        sa.Column("round_id", sa.String(64), nullable=False),
        sa.Column("site_id", sa.String(64), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("detail", sa.String(500), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("round_id", "site_id", "code", name="pk_faults"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_faults_round_id_rounds"),
    )
