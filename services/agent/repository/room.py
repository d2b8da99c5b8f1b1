"""Room on this site's disk: how a full disk is recognised, what is given up for it, and when work may go on."""

from __future__ import annotations

import asyncio
import errno
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RESERVE_BYTES: Final = 16 << 20
"""Free space below which no task is asked for."""
BALLAST_BYTES: Final = 4 << 20
"""A file that is deleted when the disk is full, so that the agent can still record how its task ended."""
LOOK_EVERY_S: Final = 2.0
LONGEST_REST_S: Final = 600.0
"""After this a task is tried again, even with less room than was wanted."""


class Room:
    """Watches the disk under `folder`; `evict` deletes what can be fetched again (the model cache)."""

    def __init__(self, folder: Path, evict: Callable[[], None]) -> None:
        self._folder, self._evict = folder, evict
        self._ballast = folder / "ballast"
        self._wanted, self._until = RESERVE_BYTES, 0.0
        self._load_ballast()

    def note_full(self) -> None:
        """Delete what can be spared after a write found no space, and want a quarter more for the next task."""
        self._ballast.unlink(missing_ok=True)
        self._evict()
        self._wanted, self._until = max(RESERVE_BYTES, self._free() * 5 // 4), time.monotonic() + LONGEST_REST_S

    async def wait(self) -> None:
        """Rest until there is room for work; say so once."""
        rests = 0
        while not self._enough():
            if rests == 1:  # and what could be spared was not enough
                log.error(
                    "disk.full",
                    path=str(self._folder),
                    free_bytes=self._free(),
                    wanted_bytes=self._wanted,
                    remedy="free space on this disk; the agent asks for no task until then",
                )
            self._evict()
            rests += 1
            await asyncio.sleep(LOOK_EVERY_S if rests > 1 else 0)
        if rests > 1:
            log.info("disk.room", free_bytes=self._free())
        self._load_ballast()

    def _enough(self) -> bool:
        if self._free() >= self._wanted:
            self._wanted = RESERVE_BYTES
            return True
        return self._wanted > RESERVE_BYTES and time.monotonic() >= self._until and self._free() >= RESERVE_BYTES

    def _free(self) -> int:
        return shutil.disk_usage(self._folder).free

    def _load_ballast(self) -> None:
        if self._free() >= RESERVE_BYTES + BALLAST_BYTES and not self._ballast.exists():
            with suppress(OSError):
                self._ballast.write_bytes(bytes(BALLAST_BYTES))


def is_full(error: BaseException | None) -> bool:
    """Return whether this, or what it came from, is a write that found no space."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(error, sqlite3.OperationalError) and "disk is full" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
