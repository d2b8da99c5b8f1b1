"""Snapshots of data sets that are queries: files that recipes read, because nothing that reads rows has a network.

A process of its own asks the database (`undersong.services.agent.site.querying`) and is gone when it has answered. A
snapshot is taken again when its declaration or the file of its URL changed; where `refresh_s` is declared also at that
age, once the agent had no work for `QUIET_S`, because a job's rows must stay as they were when it began.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from undersong.services.agent.runner.protocol import snapshot_file
from undersong.services.agent.site.querying import QueryRequest, encoded
from undersong.shared.files import file_mark, read_text
from undersong.shared.yaml_texts import NOTHING, NotYaml, load_texts

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

QUIET_S: Final = 3600.0
"""How long the agent must have had no work before a snapshot is taken again because of its age."""
RETRY_S: Final = 60.0
"""After this a query that failed is tried again, and not before `REST` times what it took: the site waits for it."""
REST: Final = 10.0
GRACE_S: Final = 15.0
"""How much longer than its query the process may take, to connect and to write."""
MOST_ANSWER: Final = 64 * 2**10
ROW_LIMIT: Final = 1_000_000
TIMEOUT_S: Final = 60


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A query as declared: what the process is asked, when again, and a mark of everything that decides its rows."""

    request: QueryRequest
    refresh_s: int | None
    mark: str


class Snapshots:
    """The snapshots of a site; `faults` says why data sets have none, or only an old one."""

    def __init__(self, datasets: Path, folder: Path) -> None:
        self._datasets, self._folder = datasets, folder
        self._tried: dict[str, tuple[str, float]] = {}
        self._seen: object = None
        self._declared: dict[str, _Wanted] = {}
        self.faults: dict[str, str] = {}

    async def refresh(self, *, quiet: bool = True) -> None:
        """Take what is due, and erase what is declared no longer. `quiet`: the agent had no work for a while."""
        wanted = self._wanted()
        self._erase(wanted)
        for name, one in wanted.items():
            if not self._due(name, one, quiet=quiet):
                continue
            try:
                await self._take(name, one)
            except OSError as error:
                self.faults[name] = f"its rows cannot be kept in {self._folder}: {error.strerror or 'no room'}"
                log.warning("snapshot.failed", dataset=name, reason=self.faults[name], kept=False)

    def reasons(self, unread: Mapping[str, str]) -> dict[str, str]:
        """Return why data sets cannot be read: a fault of their declaration, else what kept their rows from here."""
        return {
            name: reason if reason.startswith("/") else self.faults.get(name, reason)  # a fault's place comes first
            for name, reason in unread.items()
        }

    def _wanted(self) -> dict[str, _Wanted]:
        mark = file_mark(self._datasets)
        if mark != self._seen:
            self._declared, self._seen = {}, mark
            for entry in _entries(self._datasets):
                self._declared[str(entry["name"])] = self._of(entry)
        return {name: self._marked(one) for name, one in self._declared.items()}

    def _of(self, entry: Mapping[str, Any]) -> _Wanted:
        asked = entry["sql"]
        url_file = self._datasets.resolve().parent / str(asked.get("url_file"))
        refresh = asked.get("refresh_s")
        request = QueryRequest(
            url_file=str(url_file),
            query=str(asked.get("query")),
            row_limit=_whole(asked.get("row_limit"), ROW_LIMIT),
            timeout_s=_whole(asked.get("timeout_s"), TIMEOUT_S),
            out=str(snapshot_file(self._folder, str(entry["name"]))),
        )
        return _Wanted(request, None if refresh in (None, *NOTHING) else _whole(refresh, 0) or None, "")

    @staticmethod
    def _marked(one: _Wanted) -> _Wanted:
        said = [
            one.request.query,
            one.request.row_limit,
            one.request.url_file,
            (file_mark(Path(one.request.url_file)) or ())[2:4],
        ]
        digest = hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()
        return _Wanted(one.request, one.refresh_s, digest)

    def _due(self, name: str, one: _Wanted, *, quiet: bool) -> bool:
        mark, at = self._tried.get(name, ("", 0.0))
        if name in self.faults and mark == one.mark and time.time() - at < RETRY_S:
            return False
        try:
            taken_at = Path(one.request.out).stat().st_mtime
            known = _mark_file(one).read_text() == one.mark
        except OSError:
            return True
        return not known or (quiet and one.refresh_s is not None and time.time() - taken_at >= one.refresh_s)

    async def _take(self, name: str, one: _Wanted) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        began = time.time()
        self._tried[name] = (one.mark, began)
        if _read(_mark_file(one)) != one.mark:  # rows of another query are not this data set's
            _out(one).unlink(missing_ok=True)
        answer = await _asked(one.request)
        if (fault := answer.get("fault")) is not None:
            self.faults[name] = str(fault)
            self._tried[name] = (one.mark, max(began, time.time() + REST * (time.time() - began) - RETRY_S))
            log.warning("snapshot.failed", dataset=name, reason=str(fault), kept=_out(one).exists())
            return
        self.faults.pop(name, None)
        _mark_file(one).write_text(one.mark)
        log.info("snapshot.taken", dataset=name, rows=answer.get("rows"))

    def _erase(self, wanted: Mapping[str, _Wanted]) -> None:
        kept = {path for one in wanted.values() for path in (Path(one.request.out), _mark_file(one))}
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path not in kept:
                path.unlink(missing_ok=True)
        for name in set(self.faults) - set(wanted):
            del self.faults[name]


async def _asked(request: QueryRequest) -> dict[str, Any]:
    """Return what the process answers; one that takes too long, or fails, is a fault like another."""
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TZ", "PYTHONPATH")}
    command = [sys.executable, "-m", "undersong.services.agent.site.querying"]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # a library's words there may hold the URL
        env=environment,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(encoded(request)), request.timeout_s + GRACE_S)
    except TimeoutError:
        return {"fault": "the query took longer than timeout_s"}
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    try:
        answer = json.loads(said[:MOST_ANSWER])
    except ValueError:
        answer = None
    return (
        answer if isinstance(answer, dict) else {"fault": "the process that asks the database ended without an answer"}
    )


def _entries(file: Path) -> list[dict[str, Any]]:
    """Return the entries that are queries, as far as they can be read; what is wrong with them, a child will say."""
    try:
        document = load_texts(read_text(file, "utf-8-sig"))
    except (NotYaml, UnicodeDecodeError, OSError):
        return []
    found = document.get("datasets") if isinstance(document, dict) else None
    listed = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    return [e for e in listed if e.get("kind") == "sql" and isinstance(e.get("sql"), dict) and e.get("name")]


def _whole(text: object, otherwise: int) -> int:
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 10 else otherwise


def _out(one: _Wanted) -> Path:
    return Path(one.request.out)


def _mark_file(one: _Wanted) -> Path:
    return Path(one.request.out + ".mark")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
