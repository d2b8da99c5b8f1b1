"""What this site has sent in each job's newest round, in a file outside the state folder that is never restored.

An agent whose state folder was put back to an earlier copy has forgotten what it sent since, and would send other
bytes in their place: a second vector under the same masks, or a second sum of nearly the same updates. So each message
is first stored in the database, then noted here by its digest, durably, and only then sent. A round that comes before
the newest one of its job, and a message that was sent with other bytes, are refused. The file can be ahead of the
database only where the database is an older copy.
"""

from __future__ import annotations

import fcntl
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.settings import ConfigError
from undersong.shared.files import open_lock
from undersong.shared.identity.highwater import DurableLines
from undersong.shared.ids import Digest, JobId, RoundId
from undersong.shared.secagg.facts import UPLOAD as UPLOAD
from undersong.shared.wire.manifest import RoundManifest

RESTORED: Final = "state-restored"
UNWRITTEN: Final = "mark-unwritten"
_ID: Final = "id"
_WORDS: Final = 7  # of a line: job, number, attempt, round, step, digest, whether it opens the sum
_SLACK: Final = 512  # obsolete lines that may gather before the file is rewritten at a start


@dataclass(frozen=True, slots=True)
class Place:
    """Which attempt at which round of a job a message belongs to."""

    job_id: JobId
    number: int
    attempt: int
    round_id: RoundId

    @classmethod
    def of(cls, manifest: RoundManifest) -> Place:
        """Return the place of a manifest's round."""
        return cls(manifest.job_id, manifest.number, manifest.attempt, manifest.round_id)

    def before(self, other: Place) -> bool:
        """Return whether the coordinator planned this attempt before the other one, of the same job."""
        return (self.number, self.attempt) < (other.number, other.attempt)


@dataclass(frozen=True, slots=True)
class Sent:
    """One message that left, or was about to: its step (`upload` for an update's body) and the digest of its bytes."""

    place: Place
    step: str
    digest: Digest
    opens: bool = False

    def line(self) -> tuple[object, ...]:
        """Return the words of its line."""
        place = self.place
        return place.job_id, place.number, place.attempt, place.round_id, self.step, self.digest, int(self.opens)

    @classmethod
    def read(cls, words: list[str]) -> Sent | None:
        """Return the inverse of `line`; None for a line that a crash cut off."""
        if len(words) != _WORDS or not (words[1].isdigit() and words[2].isdigit()):
            return None
        job_id, number, attempt, round_id, step, digest, opens = words
        place = Place(JobId(job_id), int(number), int(attempt), RoundId(round_id))
        return cls(place, step, Digest(digest), opens == "1")


@dataclass(slots=True)
class _Mark:
    """How far one job has come: the newest attempt and what was sent in it, and the newest round that was opened."""

    place: Place
    steps: dict[str, Sent] = field(default_factory=dict)
    opening: Sent | None = None

    def add(self, sent: Sent) -> None:
        if self.place.before(sent.place):
            self.place, self.steps = sent.place, {}
        if not sent.place.before(self.place):
            self.steps[sent.step] = sent
        if sent.opens and (self.opening is None or self.opening.place.before(sent.place)):
            self.opening = sent

    def known(self, sent: Sent) -> Sent | None:
        """Return what was sent in the same step of the same round."""
        return self.steps.get(sent.step) if self.place == sent.place else None

    def objection(self, place: Place) -> str | None:
        """Why no message of this place may leave; None where it may."""
        if place.before(self.place) or (place != self.place and not self.place.before(place)):
            return "this site has answered this round of the job, or a later one"
        opened = self.opening
        if opened is not None and place.number <= opened.place.number and place.round_id != opened.place.round_id:
            return "this site has opened this round of the job in another attempt"
        return None


class SentMessages:
    """The file, held by one agent at a time. Safe to call from several threads; every method may block on the disk."""

    def __init__(self, path: Path) -> None:
        """Read the file; ConfigError where it cannot be read, or where another agent holds it."""
        self._path, self._lines, self._lock = path, DurableLines(path), threading.Lock()
        self._marks: dict[JobId, _Mark] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._held = open_lock(path.with_name(path.name + ".lock"))
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.id = self._load()
        except OSError as error:
            self._held.close()
            raise _unusable(path, error) from error

    def close(self) -> None:
        """Let another agent have the file."""
        self._held.close()

    def check(self, place: Place, stored: Mapping[str, Digest]) -> None:
        """Refuse a round in which this site sent what its database, which holds `stored`, does not know.

        Raises TaskFailure `round-answered` or `state-restored`. Nothing is written.
        """
        with self._lock:
            mark = self._marks.get(place.job_id)
            if mark is None:
                return
            self._refuse(mark.objection(place))
            if mark.place == place and any(stored.get(step) != sent.digest for step, sent in mark.steps.items()):
                raise restored()

    def uploaded(self, place: Place) -> bool:
        """Return whether an update of this place, the newest of its job, has left or was about to."""
        with self._lock:
            mark = self._marks.get(place.job_id)
            return mark is not None and mark.place == place and UPLOAD in mark.steps

    def reach(self, sent: Sent) -> None:
        """Note a message before it leaves; the same one again changes nothing.

        Raises TaskFailure `round-answered` or `state-restored` where it must not leave, and `mark-unwritten` where the
        file cannot be written.
        """
        with self._lock:
            mark = self._marks.get(sent.place.job_id)
            if mark is not None:
                self._refuse(mark.objection(sent.place))
                earlier = mark.known(sent)
                if earlier is not None:
                    if earlier.digest != sent.digest:
                        raise restored()
                    return
            self._write(sent)

    def seed(self, known: Iterable[Sent]) -> None:
        """Take over what the database says was sent, oldest first: for a file that is new; ConfigError, as above."""
        try:
            self._seed(known)
        except OSError as error:
            raise _unusable(self._path, error) from error

    def _seed(self, known: Iterable[Sent]) -> None:
        with self._lock:
            for sent in known:
                mark = self._marks.setdefault(sent.place.job_id, _Mark(sent.place))
                if mark.objection(sent.place) is None and mark.known(sent) is None:
                    self._lines.add(*sent.line())
                    mark.add(sent)

    def _refuse(self, objection: str | None) -> None:
        if objection is not None:
            raise TaskFailure("round-answered", objection)

    def _write(self, sent: Sent) -> None:
        try:
            self._lines.add(*sent.line())
        except OSError as error:
            raise TaskFailure(UNWRITTEN, f"{self._path} cannot be written: {error.strerror}") from error
        self._marks.setdefault(sent.place.job_id, _Mark(sent.place)).add(sent)

    def _load(self) -> str:
        lines, found = self._lines.read(), ""
        for words in lines:
            if words[0] == _ID and len(words) == len((_ID, found)):
                found = words[1]
            elif (sent := Sent.read(words)) is not None:
                self._marks.setdefault(sent.place.job_id, _Mark(sent.place)).add(sent)
        needed = [sent for mark in self._marks.values() for sent in _needed(mark)]
        found = found or secrets.token_hex(8)
        if not lines or len(lines) > len(needed) + _SLACK:
            self._lines.replace([(_ID, found), *(sent.line() for sent in needed)])
        return found


def _unusable(path: Path, error: OSError) -> ConfigError:
    if isinstance(error, BlockingIOError):
        return ConfigError(f"{path}: another agent is using this file; give each agent its own (high_water_file)")
    return ConfigError(
        f"{path}: the high-water file cannot be used: {error.strerror}; fix its owner, mode or disk, "
        "or name another place with high_water_file in agent.yaml"
    )


def restored() -> TaskFailure:
    """Return the refusal of an agent whose database is older than what it sent."""
    return TaskFailure(
        RESTORED,
        "this site sent something in this round that its database does not know: the state folder is an earlier copy. "
        "The round goes on without this site, and it takes part in the next one",
    )


def _needed(mark: _Mark) -> list[Sent]:
    opening = [mark.opening] if mark.opening is not None and mark.opening.place != mark.place else []
    return [*opening, *mark.steps.values()]
