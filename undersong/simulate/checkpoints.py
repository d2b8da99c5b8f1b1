"""What stays of a simulation on disk after each step, so that it goes on after a kill as if nothing had been.

A folder holds what was asked (`simulation.json`), the newest state (`state.json`, replaced at one moment), the model
and the strategy's state that it names by their digests, one line for each round (`rounds.jsonl`), of which the state
says how many bytes belong to it, and what clients keep between rounds (`clients.sqlite`), where they keep something.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from undersong.services.coordinator.domain.progress import Progress
from undersong.shared.files import open_lock, write_new
from undersong.shared.ids import Digest, digest_of
from undersong.simulate.conditions import ConditionsInvalid
from undersong.simulate.kept import KEPT, KeptDamaged, KeptTensors

SIMULATION: Final = "simulation.json"
STATE: Final = "state.json"
ROUNDS: Final = "rounds.jsonl"
LOCK: Final = "lock"
_KEPT: Final = tuple(field.name for field in fields(Progress) if field.name not in ("causes", "unable"))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A simulation between two steps: the job's progress and context, the model's file and the strategy's state."""

    progress: Progress
    context: Mapping[str, list[float]]
    version: str | None
    model: bytes | None
    strategy: bytes | None
    created_at: datetime
    finished_at: datetime | None = None
    state: str = "running"
    reason: str | None = None


class Folder:
    """The folder of one simulation."""

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        """Make the folder, or open it again; raises `ConditionsInvalid` where it is another's, or one runs there."""
        self.path, self.kept = path, KeptTensors(path / KEPT)
        path.mkdir(parents=True, exist_ok=True)
        self._lock = open_lock(path / LOCK)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._claim(asked)
        except BlockingIOError:
            self.close()
            raise ConditionsInvalid(
                f"a simulation runs in {path}", remedy="wait for it, or name another --out"
            ) from None
        except BaseException:
            self.close()
            raise
        self._rounds_bytes = 0

    def close(self) -> None:
        """Let others use the folder."""
        self.kept.close()
        self._lock.close()

    def _claim(self, asked: Mapping[str, Any]) -> None:
        path = self.path
        text = json.dumps(asked, indent=2, sort_keys=True) + "\n"
        if not write_new(path / SIMULATION, text) and (path / SIMULATION).read_text() != text:
            found = _document(path / SIMULATION)
            differing = sorted(name for name in {*asked, *found} if asked.get(name) != found.get(name))
            raise ConditionsInvalid(
                f"{path} holds a simulation of another {', '.join(differing) or 'form'}", remedy="name another --out"
            )

    def load(self) -> Checkpoint | None:
        """Return the newest state, and cut off what was written after it; None where there is none yet."""
        if not (self.path / STATE).exists():
            self._cut(0)
            self.kept.forget()
            return None
        found = _document(self.path / STATE)
        try:
            return self._checkpoint(found)
        except (LookupError, TypeError, ValueError, FileNotFoundError, KeptDamaged):
            raise self._damaged() from None

    def _checkpoint(self, found: Mapping[str, Any]) -> Checkpoint:
        self._cut(found["rounds_bytes"])
        self.kept.check(found["kept"])
        files = {name: self._read(found[name]) for name in ("model", "strategy")}
        moments = {name: _moment(found[name]) for name in ("created_at", "finished_at")}
        created = moments["created_at"]
        if created is None:
            raise self._damaged()
        return Checkpoint(
            progress=Progress(**found["progress"]),
            context=found["context"],
            version=found["version"],
            model=files["model"],
            strategy=files["strategy"],
            created_at=created,
            finished_at=moments["finished_at"],
            state=found["state"],
            reason=found["reason"],
        )

    def save(self, checkpoint: Checkpoint, rounds: list[dict[str, Any]]) -> None:
        """Store the state, with the rounds that led to it; on return it is durable."""
        if rounds:
            with (self.path / ROUNDS).open("ab") as file:
                file.write(b"".join(json.dumps(each).encode() + b"\n" for each in rounds))
                file.flush()
                os.fsync(file.fileno())
                self._rounds_bytes = file.tell()
        progress = {name: value for name, value in asdict(checkpoint.progress).items() if name in _KEPT}
        document = {
            "progress": progress,
            "context": dict(checkpoint.context),
            "version": checkpoint.version,
            "model": self._write(checkpoint.model),
            "strategy": self._write(checkpoint.strategy),
            "created_at": checkpoint.created_at.isoformat(),
            "finished_at": None if checkpoint.finished_at is None else checkpoint.finished_at.isoformat(),
            "state": checkpoint.state,
            "reason": checkpoint.reason,
            "rounds_bytes": self._rounds_bytes,
            "kept": self.kept.settle(checkpoint.progress.settled),
        }
        self._replace(STATE, json.dumps(document).encode())
        kept = {document["model"], document["strategy"]}
        for old in self.path.glob("*.part-of-state"):
            if old.stem not in kept:
                old.unlink()

    def rounds(self) -> Iterator[dict[str, Any]]:
        """Yield the rounds in order."""
        if (self.path / ROUNDS).exists():
            with (self.path / ROUNDS).open("rb") as file:
                yield from map(json.loads, file)

    def write(self, name: str, data: bytes) -> Path:
        """Write a result's file."""
        return self._replace(name, data)

    def _cut(self, size: int) -> None:
        self._rounds_bytes = size
        written = (self.path / ROUNDS).stat().st_size if (self.path / ROUNDS).exists() else 0
        if written < size:
            raise self._damaged()
        if written > size:
            os.truncate(self.path / ROUNDS, size)

    def _write(self, data: bytes | None) -> Digest | None:
        if data is None:
            return None
        digest = digest_of(data)
        if not (self.path / f"{digest}.part-of-state").exists():
            self._replace(f"{digest}.part-of-state", data)
        return digest

    def _read(self, digest: str | None) -> bytes | None:
        if digest is None:
            return None
        data = (self.path / f"{digest}.part-of-state").read_bytes()
        if digest_of(data) != digest:
            raise self._damaged()
        return data

    def _damaged(self) -> ConditionsInvalid:
        return ConditionsInvalid(f"{self.path} is damaged: a file has changed or is gone", remedy="name another --out")

    def _replace(self, name: str, data: bytes) -> Path:
        part, target = self.path / f"{name}.new", self.path / name
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        return target


def standing(path: Path) -> str | None:
    """Return in a sentence how far the simulation of a folder has come; None where none was begun."""
    if not (path / STATE).is_file():
        return None
    found = _document(path / STATE)
    done = found.get("progress")
    trained = done.get("trained") if isinstance(done, dict) else None
    if found.get("finished_at") is not None:
        return f"the simulation in {path} had ended: this is its result"
    return f"goes on in {path} after {trained} rounds of training"


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConditionsInvalid(f"{path} cannot be read", remedy="name another --out")
    return found


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
