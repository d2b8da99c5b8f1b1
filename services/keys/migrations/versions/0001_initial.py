"""The first tables."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import RowNumber, UtcDateTime
from undersong.shared.database.migrations import create_common_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_common_tables()
    op.create_table(
        "authority",
        sa.Column("id", sa.Integer(), autoincrement=False),
        sa.Column("certificate_pem", sa.Text(), nullable=False),
        sa.Column("private_key", sa.LargeBinary(), nullable=False),
        sa.Column("token_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_authority"),
        sa.CheckConstraint("id = 1", name="ck_authority_only_one"),
    )
    op.create_table(
        "operator_tokens",
        sa.Column("id", sa.String(40)),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("revoked_at", UtcDateTime()),
        sa.PrimaryKeyConstraint("id", name="pk_operator_tokens"),
        sa.UniqueConstraint("token_hash", name="uq_operator_tokens_token_hash"),
    )
    op.create_table(
        "enrolment_tokens",
        sa.Column("id", sa.String(40)),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("federation_id", sa.String(64)),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("used_at", UtcDateTime()),
        sa.Column("used_by", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("id", name="pk_enrolment_tokens"),
        sa.UniqueConstraint("token_hash", name="uq_enrolment_tokens_token_hash"),
    )
    op.create_table(
        "challenges",
        sa.Column("id", sa.String(40)),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("challenge", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_challenges"),
    )
    op.create_index("ix_challenges_expires_at", "challenges", ["expires_at"])
    create_directory()


def create_directory() -> None:
    op.create_table(
        "certificates",
        sa.Column("keyid", sa.String(64)),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("federation_id", sa.String(64)),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("certificate_pem", sa.Text(), nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=False),
        sa.Column("not_after", UtcDateTime(), nullable=False),
        sa.Column("replaces", sa.String(64)),
        sa.Column("revoked_at", UtcDateTime()),
        sa.Column("reason", sa.String(200)),
        sa.PrimaryKeyConstraint("keyid", name="pk_certificates"),
        sa.UniqueConstraint("public_key", name="uq_certificates_public_key"),
    )
    op.create_index("ix_certificates_party", "certificates", ["kind", "name"])
    op.create_index("ix_certificates_replaces", "certificates", ["replaces"])
    op.create_table(
        "revocations",
        sa.Column("sequence", RowNumber, autoincrement=True, nullable=False),
        sa.Column("keyid", sa.String(64), nullable=False),
        sa.Column("revoked_at", UtcDateTime(), nullable=False),
        sa.Column("reason", sa.String(200), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_revocations"),
        sa.UniqueConstraint("keyid", name="uq_revocations_keyid"),
        sa.ForeignKeyConstraint(["keyid"], ["certificates.keyid"], name="fk_revocations_keyid_certificates"),
        sqlite_autoincrement=True,
    )
