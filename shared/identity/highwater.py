"""What a party must remember even if its database is replaced by an older copy: small files that are never restored.

`HighWater` holds a few numbers that only rise; `DurableLines` holds lines that are only added. Both are durable when
the call that wrote them returns, so a party writes them before what they record leaves it.
"""

import asyncio
import fcntl
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from undersong.shared.files import open_lock, open_regular, read_text, sync_folder
from undersong.shared.identity.authority import write_private


@dataclass(frozen=True, slots=True)
class Mark:
    """How far this service has come: epoch, commitments and signatures given, size of the published log."""

    epoch: int = 0
    counter: int = 0
    log_size: int = 0

    def behind(self, seen: "Mark | None") -> bool:
        """Return whether the database's mark is older than the file's; without a file, whatever was given may be
        more.
        """
        if seen is None:
            return self != Mark(log_size=self.log_size)
        if self.epoch != seen.epoch:
            return self.epoch < seen.epoch
        return self.counter < seen.counter or self.log_size < seen.log_size

    def over(self, other: "Mark") -> "Mark":
        """Return the higher of both."""
        if self.epoch != other.epoch:
            return max(self, other, key=lambda mark: mark.epoch)
        return Mark(self.epoch, max(self.counter, other.counter), max(self.log_size, other.log_size))


class HighWater:
    """The file. It only rises; several processes may raise it at once."""

    def __init__(self, path: Path) -> None:
        self._path, self._reached = path, Mark(epoch=-1)

    def read(self) -> Mark | None:
        """Return the mark, or None where there is no file; raises ValueError for a broken one."""
        try:
            return Mark(**json.loads(read_text(self._path, "ascii")))
        except FileNotFoundError:
            return None
        except TypeError as error:
            raise ValueError(f"{self._path} is not a high-water file") from error

    async def reach(self, mark: Mark) -> None:
        """Raise the file to at least this mark, durably."""
        if self._reached.over(mark) != self._reached:
            await asyncio.to_thread(self._raise, mark)

    def _raise(self, mark: Mark) -> None:
        with open_lock(self._path.with_suffix(".lock")) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            present = self.read()
            higher = mark if present is None else mark.over(present)
            if higher != present:
                text = json.dumps({"epoch": higher.epoch, "counter": higher.counter, "log_size": higher.log_size})
                write_private(self._path, text.encode() + b"\n")
            self._reached = higher


class DurableLines:
    """A file of short lines, each a few words, that are only ever added."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, *words: object) -> None:
        """Append one line, durably; blocking. Raises OSError, and then the line may or may not be there."""
        new = not self._path.exists()
        descriptor = open_regular(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            data = _line(words)
            if os.write(descriptor, b"\n" + data) != len(data) + 1:  # first an end for what a crash cut off
                raise OSError(f"{self._path}: a line was only written in part")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(self._path.parent)

    def read(self) -> list[list[str]]:
        """Return all lines, in order, as lists of words; none where there is no file.

        A crash can leave a line cut off.
        """
        try:
            lines = read_text(self._path, "ascii", "replace").splitlines()
        except FileNotFoundError:
            return []
        return [[unquote(word) for word in words] for line in lines if (words := line.split())]

    def replace(self, lines: Iterable[Sequence[object]]) -> None:
        """Exchange the whole file for these lines, durably: a crash leaves the old file or the new one. Blocking."""
        write_private(self._path, b"".join(map(_line, lines)))


def _line(words: Iterable[object]) -> bytes:
    """No word can hold what ends a word or a line."""
    return f"{' '.join(quote(str(word), safe='') for word in words)}\n".encode("ascii")
