"""What the helper wrote down, looked at again and again: a verdict and a signed set never change and never go."""

import json
import threading
from collections import Counter
from types import TracebackType
from typing import Any, Final, Protocol, Self

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from undersong.local.layout import HELPER
from undersong.shared.secagg.transcript import members

_LOOK_EVERY_S: Final = 0.2
_VERDICTS: Final = "SELECT round_id, site_id, question, report_id, message, code FROM reports"
_SETS: Final = "SELECT id, manifest, members, root, share_digest, accepted FROM rounds WHERE accepted IS NOT NULL"
_SET: Final = "set of"
Book = dict[tuple[str, ...], tuple[Any, ...]]


class Stores(Protocol):
    """An arena, as far as its databases are concerned."""

    def database_url(self, service: str) -> str:
        """A service's database, for a synchronous engine."""


class Verdicts:
    """Watches the helper's tables while a case is tried; `faults` are in words.

    `forgets`: the database is put back meanwhile, and what it knew may go, but not change.
    """

    def __init__(self, arena: Stores, *, forgets: bool = False) -> None:
        self._forgets = forgets
        self._engine = create_engine(arena.database_url(HELPER))
        self._seen: Book = {}
        self._changed: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="verdicts", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._engine.dispose()

    def faults(self) -> list[str]:
        """What changed or went, and rounds of a job of which more than one attempt was opened."""
        self._look()
        manifests = [json.loads(said[0])["manifest"] for what, said in self._seen.items() if what[0] == _SET]
        opened = Counter((each["job_id"], each["kind"], each["number"]) for each in manifests)
        twice = {
            f"the helper opened {times} attempts at round {number} ({kind}) of {job_id}"
            for (job_id, kind, number), times in opened.items()
            if times > 1
        }
        return sorted(self._changed | twice)

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            try:
                self._look()
            except DBAPIError:  # away, for the moment
                continue

    def _look(self) -> None:
        with self._engine.connect() as connection:
            rows = [connection.execute(text(query)).all() for query in (_VERDICTS, _SETS)]
        found: Book = {("verdict on", row[1], "in", row[0]): tuple(row[2:]) for row in rows[0]}
        found |= {(_SET, row[0]): tuple(row[1:]) for row in rows[1]}
        for what, said in self._seen.items():
            if found.get(what) != said and not (self._forgets and what not in found):
                self._changed.add(f"the helper's {' '.join(what)} {'changed' if what in found else 'is gone'}")
        self._seen |= {what: said for what, said in found.items() if what not in self._seen}


def agreed(manifest: str, bitmap: bytes) -> frozenset[str]:
    """The sites in the set that the helper signed."""
    cohort = json.loads(manifest)["manifest"]["cohort"]
    return frozenset(cohort[place] for place in members(bitmap, len(cohort)))
