"""Heads of sites' ledgers. Only adds a table."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ledger_heads",
        sa.Column("index", sa.BigInteger(), autoincrement=False),
        sa.Column("federation_id", sa.String(64), nullable=False),
        sa.Column("site_id", sa.String(64), nullable=False),
        sa.Column("head", sa.Text(), nullable=False),
        sa.Column("logged_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("index", name="pk_ledger_heads"),
    )
    op.create_index("ix_ledger_heads_site", "ledger_heads", ["federation_id", "site_id", "index"])
