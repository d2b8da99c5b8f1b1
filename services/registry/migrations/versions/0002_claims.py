"""Which federation uploaded which content, and so may publish versions over it."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "content_claims",
        sa.Column("digest", sa.String(64)),
        sa.Column("federation_id", sa.String(64)),
        sa.Column("touched_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("digest", "federation_id", name="pk_content_claims"),
    )
    op.create_index("ix_content_claims_touched_at", "content_claims", ["touched_at"])
    # A federation has what its living versions hold; an upload without a version has to be sent again.
    op.execute(
        "INSERT INTO content_claims (digest, federation_id, touched_at) "
        "SELECT content_digest, federation_id, MAX(created_at) FROM versions WHERE deleted_at IS NULL "
        "GROUP BY content_digest, federation_id"
    )
