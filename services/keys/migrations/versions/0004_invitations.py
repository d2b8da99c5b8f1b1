"""Invitations: enrolment tokens that the coordinator asked for. Only adds columns."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("enrolment_tokens", sa.Column("invited_by", sa.String(200), nullable=True))
    op.add_column("enrolment_tokens", sa.Column("approved_at", UtcDateTime(), nullable=True))
