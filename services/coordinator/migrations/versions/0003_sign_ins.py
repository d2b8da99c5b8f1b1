"""Failed sign-ins and ended sessions. Only adds tables."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sign_in_failures",
        sa.Column("address", sa.String(64)),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("address", name="pk_sign_in_failures"),
    )
    op.create_table(
        "ended_sessions",
        sa.Column("id", sa.String(64)),
        sa.Column("until", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ended_sessions"),
    )


def downgrade() -> None:
    op.drop_table("ended_sessions")
    op.drop_table("sign_in_failures")
