"""Each update's length and layout, which no longer stand in the round from the first update on. Only adds."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("contributions", sa.Column("length", sa.BigInteger))
    op.add_column("contributions", sa.Column("layout", sa.String(64)))
