"""Audit entries of what people change about sites and people. Only adds a table."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import JsonDocument, RowNumber, UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("id", RowNumber, autoincrement=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("actor_id", sa.String(40), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(40), nullable=False),
        sa.Column("federation_id", sa.String(40), nullable=True),
        sa.Column("data", JsonDocument(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_entries"),
    )
    op.create_index("ix_audit_entries_federation_id_id", "audit_entries", ["federation_id", "id"])


def downgrade() -> None:
    op.drop_table("audit_entries")
