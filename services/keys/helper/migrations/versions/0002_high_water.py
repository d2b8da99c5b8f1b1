"""What the high-water file is compared with; openings that outlive their round's row."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    standing = op.create_table(
        "standing",
        sa.Column("id", sa.Integer(), autoincrement=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_standing"),
        sa.CheckConstraint("id = 1", name="ck_standing_only_one"),
    )
    op.bulk_insert(standing, [{"id": 1, "epoch": 0, "counter": 0}])
    with op.batch_alter_table("openings") as openings:
        openings.drop_constraint("fk_openings_round_id_rounds", type_="foreignkey")
