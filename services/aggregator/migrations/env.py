"""Alembic's entry: everything is in shared.database.migrations."""

from services.aggregator.tables import Base
from shared.database.migrations import run_env

run_env(Base.metadata)
