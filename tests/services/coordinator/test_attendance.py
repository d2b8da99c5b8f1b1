"""Who is there must not look away between two entries in the book, however short leases are."""

from pathlib import Path

import pytest

from undersong.services.coordinator.attendance import Attendance
from undersong.services.coordinator.tables import common
from undersong.shared.database import Database
from undersong.shared.queues import Notifier, Streams


@pytest.mark.parametrize("lease_s", [1.0, 8.0, 30.0])
async def test_the_book_is_written_well_within_a_lease(tmp_path: Path, lease_s: float) -> None:
    """At worst an entry is due right after a look, and is written at the next one."""
    database, streams = Database(f"sqlite+aiosqlite:///{tmp_path / 'x.sqlite'}", common), Streams("redis://127.0.0.1:1")
    attendance = Attendance(database, Notifier(streams, ["x"]), lease_s)
    assert attendance._again_s + attendance._period_s <= lease_s / 2
    await streams.close()
    await database.close()
