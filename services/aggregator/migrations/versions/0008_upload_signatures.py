"""Sites' signatures over their updates. Only adds; rounds that were open before have none, and are tried again."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("contributions", sa.Column("signature", sa.LargeBinary, nullable=True))
