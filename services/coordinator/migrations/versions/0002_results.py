"""What a statistics job has found. Only adds a column that may be empty."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import JsonDocument

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("results", JsonDocument()))


def downgrade() -> None:
    op.drop_column("jobs", "results")
