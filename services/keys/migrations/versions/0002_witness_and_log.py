"""The witness and the transparency log. Only adds tables."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_witness()
    create_log()


def create_witness() -> None:
    op.create_table(
        "witness_state",
        sa.Column("id", sa.Integer(), autoincrement=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_witness_state"),
        sa.CheckConstraint("id = 1", name="ck_witness_state_only_one"),
    )
    op.create_table(
        "rounds_witnessed",
        sa.Column("round_id", sa.String(40)),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("keyid", sa.String(64), nullable=False),
        sa.Column("nonce", sa.LargeBinary()),
        sa.Column("commitment", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(40)),
        sa.Column("number", sa.BigInteger()),
        sa.Column("attempt", sa.BigInteger()),
        sa.Column("manifest_digest", sa.String(64)),
        sa.Column("roster", sa.LargeBinary()),
        sa.Column("roster_ask", sa.String(64)),
        sa.Column("roster_reply", sa.LargeBinary()),
        sa.Column("survivors_ask", sa.String(64)),
        sa.Column("survivors_reply", sa.LargeBinary()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("round_id", name="pk_rounds_witnessed"),
        sa.UniqueConstraint("job_id", "number", "attempt", name="uq_rounds_witnessed_job_id_number_attempt"),
    )


def create_log() -> None:
    op.create_table(
        "log_entries",
        sa.Column("index", sa.BigInteger(), autoincrement=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("appended_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("index", name="pk_log_entries"),
        sa.UniqueConstraint("type", "subject", name="uq_log_entries_type_subject"),
    )
    op.create_table(
        "log_nodes",
        sa.Column("level", sa.Integer(), autoincrement=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "position", name="pk_log_nodes"),
    )
    op.create_table(
        "round_records",
        sa.Column("round_id", sa.String(40)),
        sa.Column("federation_id", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("index", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("round_id", name="pk_round_records"),
    )
