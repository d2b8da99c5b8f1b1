"""How many updates the holder of a round had folded when it last renewed its lease. Only adds."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rounds", sa.Column("folded", sa.Integer(), nullable=False, server_default="0"))
