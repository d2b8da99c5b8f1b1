"""A site's own metrics, where it tells them. Only adds."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import JsonDocument

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("metrics", JsonDocument(), nullable=True))


def downgrade() -> None:
    op.drop_column("tasks", "metrics")
