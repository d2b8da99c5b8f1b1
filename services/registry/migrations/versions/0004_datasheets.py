"""Privacy datasheets of versions."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import RowNumber, UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "datasheets",
        sa.Column("id", RowNumber, primary_key=True, autoincrement=True),
        sa.Column("version_id", sa.String(40), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("audits", sa.Integer(), nullable=False),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        sa.Column("stored_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_datasheets_version_id_versions"),
        sa.UniqueConstraint("version_id", "digest", name="uq_datasheets_version_id_digest"),
    )
    op.create_index("ix_datasheets_version_id", "datasheets", ["version_id"])
