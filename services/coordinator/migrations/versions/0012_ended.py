"""Rounds and tasks by when and how they ended, for the page Operations."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_rounds_phase_finished_at", "rounds", ["phase", "finished_at", "kind", "created_at"])
    op.create_index("ix_tasks_state_finished_at", "tasks", ["state", "finished_at"])


def downgrade() -> None:
    op.drop_index("ix_tasks_state_finished_at", "tasks")
    op.drop_index("ix_rounds_phase_finished_at", "rounds")
