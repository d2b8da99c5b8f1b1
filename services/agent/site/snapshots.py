"""Snapshots of data sets that are queries: files that recipes read, because nothing that reads rows has a network.

A process of its own asks the database (`undersong.services.agent.site.querying`) and is gone when it has answered or
its time is over; the agent works on meanwhile. Only queries of data sets that the policy names are asked. A snapshot is
taken again when its declaration or the file of its URL changed; where `refresh_s` is declared also at that age, once
the agent had no work for `QUIET_S`, because a job's rows must stay as they were when it began.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
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
"""After this a query that failed is tried again, and not before `REST` times what it took."""
REST: Final = 10.0
GRACE_S: Final = 15.0
"""How much longer than its query the process may take, to connect and to write."""
AT_ONCE: Final = 4
"""Queries that are asked at the same time."""
MOST_ANSWER: Final = 64 * 2**10
_NEW: Final = ".new"
_ASKED: Final = "its query is being asked; the site's agent goes on meanwhile"
ROW_LIMIT: Final = 1_000_000
TIMEOUT_S: Final = 60


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A query as declared: what the process is asked, when again, and a mark of everything that decides its rows."""

    request: QueryRequest
    refresh_s: int | None
    mark: str


class Snapshots:
    """The snapshots of a site; `faults` says why data sets have none, or only an old one.

    `news`: a query ended since `told` was called last, so that the site must be read again.
    """

    def __init__(self, datasets: Path, folder: Path, quiet: Callable[[], bool] = lambda: True) -> None:
        """`quiet` returns whether the agent had no work for a while."""
        self._datasets, self._folder, self._quiet = datasets, folder, quiet
        self._tried: dict[str, tuple[str, float]] = {}
        self._seen: object = None
        self._declared: dict[str, _Wanted] = {}
        self._allowed: frozenset[str] | None = None
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self.faults: dict[str, str] = {}
        self.news = False

    async def refresh(self, allowed: Collection[str] | None = None, *, within_s: float | None = None) -> None:
        """Begin to take what is due, and erase what is declared, or allowed, no longer.

        Waits for what it began, at most `within_s`; the rest goes on. allowed: names of data sets; None: all.
        """
        declared = self._wanted()
        self._allowed = None if allowed is None else frozenset(allowed)
        wanted = {name: one for name, one in declared.items() if self._allowed is None or name in self._allowed}
        for name, (mark, task) in list(self._running.items()):
            if name not in wanted or wanted[name].mark != mark:
                await self._end(name, task)
        self._erase(wanted)
        begun = set()
        for name, one in wanted.items():
            if name not in self._running and self._due(name, one, quiet=self._quiet()):
                task = asyncio.create_task(self._try(name, one))
                self._running[name] = (one.mark, task)
                begun.add(task)
        if begun:
            await asyncio.wait(begun, timeout=within_s)

    def told(self) -> None:
        """Take note that the site is read again now."""
        self.news = False

    async def close(self) -> None:
        """End the queries that are being asked."""
        for name, (_, task) in list(self._running.items()):
            await self._end(name, task)

    def reasons(self, unread: Mapping[str, str]) -> dict[str, str]:
        """Return why data sets cannot be read: a fault of their declaration, else what kept their rows from here."""
        return {
            name: reason if reason.startswith("/") else self._reason(name, reason)  # a fault's place comes first
            for name, reason in unread.items()
        }

    def _reason(self, name: str, reason: str) -> str:
        if name in self._declared and self._allowed is not None and name not in self._allowed:
            return "its query is not asked, because the site's policy does not name the data set"
        return self.faults.get(name, _ASKED if name in self._running else reason)

    async def _try(self, name: str, one: _Wanted) -> None:
        try:
            async with self._places:
                await self._take(name, one)
        except OSError as error:
            self.faults[name] = f"its rows cannot be kept in {self._folder}: {error.strerror or 'no room'}"
            log.warning("snapshot.failed", dataset=name, reason=self.faults[name], kept=False)
        finally:
            self._running.pop(name, None)
            self.news = True

    async def _end(self, name: str, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._running.pop(name, None)

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
            out=str(snapshot_file(self._folder, str(entry["name"]))) + _NEW,
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
            taken_at = _out(one).stat().st_mtime
        except OSError:
            return True
        old = one.refresh_s is not None and time.time() - taken_at >= one.refresh_s
        return _read(_mark_file(one)) != one.mark or (quiet and old)

    async def _take(self, name: str, one: _Wanted) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        began = time.time()
        self._tried[name] = (one.mark, began)
        again = _read(_mark_file(one)) == one.mark and _out(one).exists()
        if not again:  # rows of another query are not this data set's
            _out(one).unlink(missing_ok=True)
        answer = await _asked(one.request)
        if (fault := answer.get("fault")) is not None:
            self.faults[name] = str(fault)
            self._tried[name] = (one.mark, max(began, time.time() + REST * (time.time() - began) - RETRY_S))
            log.warning("snapshot.failed", dataset=name, reason=str(fault), kept=_out(one).exists())
            return
        self.faults.pop(name, None)
        if _keep(one, replaces=not again or self._quiet()):  # a job may read the rows that are here
            log.info("snapshot.taken", dataset=name, rows=answer.get("rows"))

    def _erase(self, wanted: Mapping[str, _Wanted]) -> None:
        kept = {path for one in wanted.values() for path in (_out(one), _mark_file(one))}
        busy = tuple(wanted[name].request.out for name in self._running)
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path in kept or str(path).startswith(busy):
                continue
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # a folder, or one that cannot be written: other data sets are read all the same
                log.warning("snapshot.not_erased", file=path.name, reason=error.strerror)
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
    """Return the file that recipes read; the process writes another, which takes its place."""
    return Path(one.request.out.removesuffix(_NEW))


def _keep(one: _Wanted, *, replaces: bool) -> bool:
    """Let new rows take the place of those before them, or erase them; return which."""
    new = Path(one.request.out)
    if not replaces:
        new.unlink(missing_ok=True)
        return False
    new.replace(_out(one))
    _mark_file(one).write_text(one.mark)
    return True


def _mark_file(one: _Wanted) -> Path:
    return _out(one).with_name(_out(one).name + ".mark")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
