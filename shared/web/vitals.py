"""What every process of a service measures of itself: disks, database, keys, and how old the last backup is."""

import asyncio
import fcntl
import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from undersong.shared.clock import utc_now
from undersong.shared.database import Database
from undersong.shared.identity.authority import IDENTITY_FILE
from undersong.shared.identity.sealing import MOST_USES, tag_of_current, take_uses
from undersong.shared.queues import Sweeper
from undersong.shared.telemetry.metrics import (
    BACKUP_AGE_SECONDS,
    CERTIFICATE_LIFE_RATIO,
    CERTIFICATE_SECONDS,
    DATABASE_BYTES,
    DISK_FREE_BYTES,
    DISK_FREE_RATIO,
    KEY_AGE_SECONDS,
    KEY_USES_RATIO,
    RESTORE_DRILL_AGE_SECONDS,
    say_build,
)
from undersong.shared.web.settings import ServiceSettings

EVERY_S: Final = 10.0
BACKUP_STAMP: Final = "last-backup"
RESTORE_STAMP: Final = "last-restore"
"""Empty files in a service's data folder; their age tells when a backup or a restore was made last."""


async def vitals(service: str, settings: ServiceSettings, database: Database) -> None:
    """Measure until cancelled."""
    say_build(service)

    async def files() -> int:
        await asyncio.to_thread(measure_files, settings)
        return 0

    async def size() -> int:
        DATABASE_BYTES.set(await database.size_bytes())
        return 0

    await Sweeper(EVERY_S, {"files": files, "database_size": size}, housekeeping=True).run()


def measure_certificate(kind: str, not_before: datetime, not_after: datetime) -> None:
    """Say how much of a certificate's life is left."""
    left = (not_after - utc_now()).total_seconds()
    CERTIFICATE_SECONDS.labels(kind).set(left)
    CERTIFICATE_LIFE_RATIO.labels(kind).set(left / (not_after - not_before).total_seconds())


def measure_files(settings: ServiceSettings) -> None:
    """Disks, keys and stamps; touches files only."""
    for volume, folder in settings.volumes.items():
        if folder.is_dir():
            usage = shutil.disk_usage(folder)
            DISK_FREE_BYTES.labels(volume).set(usage.free)
            DISK_FREE_RATIO.labels(volume).set(usage.free / usage.total)
    for kind, file in (("identity", settings.identity_dir / IDENTITY_FILE), ("seal", settings.seal_key)):
        if file.exists():
            KEY_AGE_SECONDS.labels(kind).set(_age_s(file))
    if settings.seal_key.exists():
        uses = add_uses(settings.data_dir / "seal-uses", take_uses())
        KEY_USES_RATIO.labels("seal").set(uses.get(tag_of_current(settings.seal_key), 0) / MOST_USES)
        begun = _age_s(settings.seal_key)
        for stamp, gauge in ((BACKUP_STAMP, BACKUP_AGE_SECONDS), (RESTORE_STAMP, RESTORE_DRILL_AGE_SECONDS)):
            file = settings.data_dir / stamp
            gauge.set(_age_s(file) if file.exists() else begun)


def add_uses(file: Path, more: Mapping[str, int]) -> dict[str, int]:
    """Add uses of keys, by tag, to those of all processes before and beside this one; what a crash loses is seconds."""
    if not any(more.values()) and not file.exists():
        return {}
    with file.open("a+") as kept:
        fcntl.flock(kept, fcntl.LOCK_EX)
        kept.seek(0)
        try:
            known = Counter({str(tag): int(uses) for tag, uses in json.loads(kept.read() or "{}").items()})
        except ValueError:  # half written when the machine went down
            known = Counter()
        if any(more.values()):
            known.update(more)
            kept.seek(0)
            kept.truncate()
            kept.write(json.dumps(known))
        return dict(known)


def _age_s(file: Path) -> float:
    return max(0.0, time.time() - file.stat().st_mtime)
