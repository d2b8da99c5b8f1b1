"""The first schema."""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database.common import RowNumber
from undersong.shared.database.migrations import create_common_tables
from undersong.shared.database.types import JsonDocument, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_common_tables()
    _rounds()
    op.create_table(
        "contributions",
        sa.Column("id", RowNumber, autoincrement=True, nullable=False),
        sa.Column("round_id", sa.String(64), nullable=False),
        sa.Column("site_id", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("code", sa.String(64)),
        sa.Column("message", sa.String(500)),
        sa.Column("accepted_at", UtcDateTime(), nullable=False),
        sa.Column("receipt", JsonDocument(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_contributions"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_contributions_round_id_rounds"),
        sa.UniqueConstraint("round_id", "site_id", name="uq_contributions_round_id_site_id"),
    )
    op.create_index("ix_contributions_digest", "contributions", ["digest"])
    op.create_table(
        "publications",
        sa.Column("round_id", sa.String(64), nullable=False),
        sa.Column("model_id", sa.String(64), nullable=False),
        sa.Column("body", JsonDocument(), nullable=False),
        sa.Column("intended_at", UtcDateTime(), nullable=False),
        sa.Column("version_id", sa.String(64)),
        sa.PrimaryKeyConstraint("round_id", name="pk_publications"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_publications_round_id_rounds"),
    )
    op.create_table(
        "round_events",
        sa.Column("id", RowNumber, autoincrement=True, nullable=False),
        sa.Column("round_id", sa.String(64), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("actor", sa.String(160), nullable=False),
        sa.Column("detail", JsonDocument(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_round_events"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_round_events_round_id_rounds"),
    )
    op.create_index("ix_round_events_round_id", "round_events", ["round_id"])


def _rounds() -> None:
    op.create_table(
        "rounds",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("federation_id", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64)),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("manifest_digest", sa.String(64), nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("engine_public", JsonDocument(), nullable=False),
        sa.Column("engine_secret", sa.LargeBinary),
        sa.Column("cohort_size", sa.Integer, nullable=False),
        sa.Column("min_cohort", sa.Integer, nullable=False),
        sa.Column("target", sa.Integer, nullable=False),
        sa.Column("got", sa.Integer, nullable=False),
        sa.Column("rejected", sa.Integer, nullable=False),
        sa.Column("length", sa.BigInteger),
        sa.Column("layout", sa.String(64)),
        sa.Column("deadline", UtcDateTime(), nullable=False),
        sa.Column("finish_by", UtcDateTime(), nullable=False),
        sa.Column("next_check_at", UtcDateTime(), nullable=False),
        sa.Column("worker_id", sa.String(64)),
        sa.Column("worker_until", UtcDateTime()),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("opened_at", UtcDateTime(), nullable=False),
        sa.Column("moved_at", UtcDateTime(), nullable=False),
        sa.Column("scrubbed_at", UtcDateTime()),
        sa.Column("version_id", sa.String(64)),
        sa.Column("content_digest", sa.String(64)),
        sa.Column("state_digest", sa.String(64)),
        sa.Column("model_length", sa.BigInteger),
        sa.Column("keeps_blobs", sa.Boolean, nullable=False),
        sa.Column("result", JsonDocument()),
        sa.PrimaryKeyConstraint("id", name="pk_rounds"),
    )
    op.create_index("ix_rounds_phase", "rounds", ["phase"])
    op.create_index("ix_rounds_job_id_version_id", "rounds", ["job_id", "version_id"])
    op.create_index("ix_rounds_content_digest", "rounds", ["content_digest"])
    op.create_index("ix_rounds_state_digest", "rounds", ["state_digest"])
