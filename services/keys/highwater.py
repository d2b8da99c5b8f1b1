"""How far a service has come, in a small file beside its database that is never restored with it."""

import asyncio
import fcntl
import json
from dataclasses import dataclass
from pathlib import Path

from shared.identity.authority import write_private


@dataclass(frozen=True, slots=True)
class Mark:
    """How far this service has come: epoch, commitments and signatures given, size of the published log."""

    epoch: int = 0
    counter: int = 0
    log_size: int = 0

    def behind(self, seen: "Mark | None") -> bool:
        """Whether the database's mark is older than the file's; without a file, whatever was given may be more."""
        if seen is None:
            return self != Mark(log_size=self.log_size)
        if self.epoch != seen.epoch:
            return self.epoch < seen.epoch
        return self.counter < seen.counter or self.log_size < seen.log_size

    def over(self, other: "Mark") -> "Mark":
        """The higher of both."""
        if self.epoch != other.epoch:
            return max(self, other, key=lambda mark: mark.epoch)
        return Mark(self.epoch, max(self.counter, other.counter), max(self.log_size, other.log_size))


class HighWater:
    """The file. It only rises; several processes may raise it at once."""

    def __init__(self, path: Path) -> None:
        self._path, self._reached = path, Mark(epoch=-1)

    def read(self) -> Mark | None:
        """The mark, or None where there is no file; raises ValueError for a broken one."""
        try:
            return Mark(**json.loads(self._path.read_text("ascii")))
        except FileNotFoundError:
            return None
        except TypeError as error:
            raise ValueError(f"{self._path} is not a high-water file") from error

    async def reach(self, mark: Mark) -> None:
        """Raise the file to at least this mark, durably."""
        if self._reached.over(mark) != self._reached:
            await asyncio.to_thread(self._raise, mark)

    def _raise(self, mark: Mark) -> None:
        with self._path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            present = self.read()
            higher = mark if present is None else mark.over(present)
            if higher != present:
                text = json.dumps({"epoch": higher.epoch, "counter": higher.counter, "log_size": higher.log_size})
                write_private(self._path, text.encode() + b"\n")
            self._reached = higher
