"""The first schema.

Revision: 0001
"""

import sqlalchemy as sa
from alembic import op

from undersong.shared.database import JsonDocument, RowNumber, UtcDateTime
from undersong.shared.database.migrations import create_common_tables

revision = "0001"
down_revision = None

ID = sa.String(40)
WORD = sa.String(40)
TITLE = sa.String(200)
DIGEST = sa.String(64)


def upgrade() -> None:
    create_common_tables()
    _people()
    _sites()
    _jobs()
    _rounds()
    _tasks()
    _events()


def _sites() -> None:
    op.create_table(
        "platform",
        sa.Column("id", sa.Integer(), autoincrement=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("watching_since", UtcDateTime()),
        sa.Column("watched_at", UtcDateTime()),
        sa.PrimaryKeyConstraint("id", name="pk_platform"),
    )
    op.execute("INSERT INTO platform (id, epoch) VALUES (1, 0)")
    op.create_table(
        "federations",
        sa.Column("id", ID),
        sa.Column("name", TITLE, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_federations"),
        sa.UniqueConstraint("name", name="uq_federations_name"),
    )
    op.create_table(
        "sites",
        sa.Column("id", ID),
        sa.Column("federation_id", ID, nullable=False),
        sa.Column("name", TITLE, nullable=False),
        sa.Column("owner", TITLE, nullable=False),
        sa.Column("suspended", sa.Boolean(), nullable=False),
        sa.Column("profile", JsonDocument()),
        sa.Column("profile_at", UtcDateTime()),
        sa.Column("last_seen_at", UtcDateTime()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sites"),
        sa.UniqueConstraint("federation_id", "name", name="uq_sites_federation_id_name"),
        sa.ForeignKeyConstraint(["federation_id"], ["federations.id"], name="fk_sites_federation_id_federations"),
    )
    op.create_index("ix_sites_last_seen_at", "sites", ["last_seen_at"])


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", ID),
        sa.Column("federation_id", ID, nullable=False),
        sa.Column("name", TITLE, nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("reason", TITLE),
        sa.Column("spec", JsonDocument(), nullable=False),
        sa.Column("resolved", JsonDocument(), nullable=False),
        sa.Column("created_by", TITLE, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("next_check_at", UtcDateTime(), nullable=False),
        sa.Column("model_id", ID),
        sa.Column("version_id", ID),
        sa.Column("version_digest", DIGEST),
        sa.Column("context", JsonDocument(), nullable=False),
        sa.Column("progress", JsonDocument(), nullable=False),
        sa.Column("last_failure", TITLE),
        sa.Column("round_id", ID),
        sa.Column("waiting_since", UtcDateTime()),
        sa.Column("finished_at", UtcDateTime()),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.ForeignKeyConstraint(["federation_id"], ["federations.id"], name="fk_jobs_federation_id_federations"),
    )
    op.create_index("ix_jobs_federation_id", "jobs", ["federation_id"])
    op.create_index("ix_jobs_state_next_check_at", "jobs", ["state", "next_check_at"])


def _rounds() -> None:
    op.create_table(
        "rounds",
        sa.Column("id", ID),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("kind", WORD, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("phase", WORD, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("reason", TITLE),
        sa.Column("cohort", JsonDocument(), nullable=False),
        sa.Column("min_cohort", sa.Integer(), nullable=False),
        sa.Column("target", sa.Integer(), nullable=False),
        sa.Column("outstanding", sa.Integer(), nullable=False),
        sa.Column("got", sa.Integer(), nullable=False),
        sa.Column("closing", sa.Boolean(), nullable=False),
        sa.Column("deadline_s", sa.Double(), nullable=False),
        sa.Column("deadline_at", UtcDateTime(), nullable=False),
        sa.Column("next_check_at", UtcDateTime(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("opened_at", UtcDateTime()),
        sa.Column("finished_at", UtcDateTime()),
        sa.Column("manifest", JsonDocument(), nullable=False),
        sa.Column("engine_public", JsonDocument()),
        sa.Column("result", JsonDocument()),
        sa.Column("metrics", JsonDocument()),
        sa.Column("unreported", sa.Boolean(), nullable=False),
        sa.Column("uncancelled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rounds"),
        sa.UniqueConstraint("job_id", "kind", "number", "attempt", name="uq_rounds_job_id_kind_number_attempt"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_rounds_job_id_jobs"),
    )
    op.create_index("ix_rounds_phase_next_check_at", "rounds", ["phase", "next_check_at"])


def _tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", ID),
        sa.Column("round_id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("site_id", ID, nullable=False),
        sa.Column("kind", WORD, nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lease_token", DIGEST),
        sa.Column("lease_expires_at", UtcDateTime()),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("phase", TITLE),
        sa.Column("digest", DIGEST),
        sa.Column("code", TITLE),
        sa.Column("message", sa.Text()),
        sa.Column("trace", JsonDocument(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime()),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.UniqueConstraint("round_id", "site_id", name="uq_tasks_round_id_site_id"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_tasks_round_id_rounds"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_tasks_job_id_jobs"),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_tasks_site_id_sites"),
    )
    op.create_index("ix_tasks_state_lease_expires_at", "tasks", ["state", "lease_expires_at"])
    op.create_index("ix_tasks_site_id_state", "tasks", ["site_id", "state"])
    leased = sa.text("state = 'leased'")
    op.create_index(
        "uq_tasks_one_lease_per_site",
        "tasks",
        ["site_id"],
        unique=True,
        sqlite_where=leased,
        postgresql_where=leased,
    )


def _events() -> None:
    op.create_table(
        "job_events",
        sa.Column("id", RowNumber, autoincrement=True),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("type", WORD, nullable=False),
        sa.Column("actor", TITLE, nullable=False),
        sa.Column("data", JsonDocument(), nullable=False),
        sa.Column("trace", sa.String(128)),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_job_events"),
        sa.UniqueConstraint("job_id", "number", name="uq_job_events_job_id_number"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_events_job_id_jobs"),
    )


def _people() -> None:
    op.create_table(
        "users",
        sa.Column("id", ID),
        sa.Column("name", TITLE, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("name", name="uq_users_name"),
    )
    op.create_table(
        "grants",
        sa.Column("user_id", ID),
        sa.Column("role", WORD),
        sa.Column("federation_id", ID),
        sa.PrimaryKeyConstraint("user_id", "role", "federation_id", name="pk_grants"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_grants_user_id_users"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", ID),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("name", TITLE, nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime()),
        sa.Column("revoked_at", UtcDateTime()),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_tokens_user_id_users"),
    )
    op.create_index("ix_tokens_user_id", "tokens", ["user_id"])


def downgrade() -> None:
    raise NotImplementedError("the first schema has nothing to go back to")
