"""Alembic's entry: everything is in undersong.shared.database.migrations."""

from undersong.services.aggregator.tables import Base
from undersong.shared.database.migrations import run_env

run_env(Base.metadata)
