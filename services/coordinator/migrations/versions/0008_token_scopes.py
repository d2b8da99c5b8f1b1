"""Scopes of tokens, tokens made by a sign-on, and who signs a user on. Only adds columns."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import JsonDocument

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tokens", sa.Column("scopes", JsonDocument(), nullable=True))
    op.add_column("tokens", sa.Column("sign_on", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.add_column("users", sa.Column("issuer", sa.Text(), nullable=True))
    op.add_column("users", sa.Column("subject", sa.Text(), nullable=True))
    op.create_index("ix_users_issuer_subject", "users", ["issuer", "subject"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_users_issuer_subject", "users")
    op.drop_column("users", "subject")
    op.drop_column("users", "issuer")
    op.drop_column("tokens", "sign_on")
    op.drop_column("tokens", "scopes")
