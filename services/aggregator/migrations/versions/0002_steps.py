"""Rounds of several steps, and records for the log. Only adds."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database.types import JsonDocument, UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rounds", sa.Column("manifest_keyid", sa.String(64)))
    op.add_column("rounds", sa.Column("manifest_signature", sa.String(4096)))
    op.add_column("rounds", sa.Column("step", sa.String(32)))
    op.add_column("rounds", sa.Column("step_missing", sa.Integer))
    op.add_column("rounds", sa.Column("step_deadline", UtcDateTime()))
    _steps()
    _messages()
    _of_round(
        "lost_sites",
        ["site_id"],
        sa.Column("site_id", sa.String(64), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
    )
    _of_round(
        "records",
        [],
        sa.Column("facts", JsonDocument(), nullable=False),
        sa.Column("result", JsonDocument()),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("next_try_at", UtcDateTime()),
        sa.Column("posted_at", UtcDateTime()),
        sa.Column("refused", sa.String(500)),
    )
    op.create_index("ix_records_next_try_at", "records", ["next_try_at"])


def _steps() -> None:
    _of_round(
        "steps",
        ["step"],
        sa.Column("step", sa.String(32), nullable=False),
        sa.Column("members", JsonDocument(), nullable=False),
        sa.Column("frozen_at", UtcDateTime(), nullable=False),
        sa.Column("closed_at", UtcDateTime()),
    )
    _of_round(
        "step_answers",
        ["step", "site_id"],
        sa.Column("step", sa.String(32), nullable=False),
        sa.Column("site_id", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    _of_round(
        "step_bodies",
        ["digest"],
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )


def _messages() -> None:
    _of_round(
        "step_messages",
        ["step", "site_id"],
        sa.Column("step", sa.String(32), nullable=False),
        sa.Column("site_id", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary),
        sa.Column("accepted_at", UtcDateTime(), nullable=False),
    )


def _of_round(name: str, key: list[str], *columns: sa.Column[object]) -> None:
    op.create_table(
        name,
        sa.Column("round_id", sa.String(64), nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("round_id", *key, name=f"pk_{name}"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name=f"fk_{name}_round_id_rounds"),
    )
