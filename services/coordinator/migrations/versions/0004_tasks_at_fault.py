"""An index over the few tasks whose sites broke a round's protocol. Only adds."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_AT_FAULT = sa.text("code = 'dealer-at-fault'")


def upgrade() -> None:
    op.create_index("ix_tasks_at_fault", "tasks", ["job_id"], sqlite_where=_AT_FAULT, postgresql_where=_AT_FAULT)


def downgrade() -> None:
    op.drop_index("ix_tasks_at_fault", "tasks")
