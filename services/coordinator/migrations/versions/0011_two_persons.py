"""Last uses of tokens, revoked users, changes that take two persons. Only adds columns and a table."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import JsonDocument, UtcDateTime

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tokens", sa.Column("last_used_at", UtcDateTime(), nullable=True))
    op.add_column("users", sa.Column("revoked_at", UtcDateTime(), nullable=True))
    op.create_table(
        "pending_actions",
        sa.Column("id", sa.String(40)),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("federation_id", sa.String(40), nullable=True),
        sa.Column("data", JsonDocument(), nullable=False),
        sa.Column("reason", sa.String(200), nullable=False),
        sa.Column("state", sa.String(40), nullable=False),
        sa.Column("requested_by", sa.String(40), nullable=False),
        sa.Column("requester", sa.String(200), nullable=False),
        sa.Column("requested_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("decider", sa.String(200), nullable=True),
        sa.Column("decided_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_pending_actions"),
        sa.ForeignKeyConstraint(["requested_by"], ["users.id"], name="fk_pending_actions_requested_by_users"),
    )


def downgrade() -> None:
    op.drop_table("pending_actions")
    op.drop_column("users", "revoked_at")
    op.drop_column("tokens", "last_used_at")
