"""Parts of a round that workers fold beside each other. Only adds."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database.common import RowNumber
from undersong.shared.database.types import JsonDocument, UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "parts",
        sa.Column("id", RowNumber, nullable=False, autoincrement=True),
        sa.Column("round_id", sa.String(64), nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("members", JsonDocument(), nullable=False),
        sa.Column("worker_id", sa.String(64)),
        sa.Column("until", UtcDateTime()),
        sa.Column("claim", sa.String(32)),
        sa.Column("handed_in", sa.Boolean, nullable=False),
        sa.Column("folded", JsonDocument()),
        sa.Column("digest", sa.String(64)),
        sa.Column("key", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="pk_parts"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_parts_round_id_rounds"),
    )
    op.create_index("ix_parts_round_id_fence", "parts", ["round_id", "fence"])
    op.create_index("ix_parts_digest", "parts", ["digest"])
