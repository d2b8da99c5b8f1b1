"""The migrated schema is the one that the code describes."""

import pytest

from undersong.services.coordinator.tables import Base
from undersong.shared.database.migrations import drift, migrate


@pytest.mark.both_databases
def test_no_drift_between_migrations_and_tables(database_url: str) -> None:
    """On both databases; and migrating twice changes nothing."""
    assert migrate(database_url, "coordinator") == migrate(database_url, "coordinator")
    assert drift(database_url, "coordinator", Base.metadata) == []
