"""What the agent accepts as its owners' word: policies that they signed, and none older than it has seen."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from undersong.services.agent.domain.rules import POLICY_SIGNATURE, Policy
from undersong.services.agent.policy import file as policies
from undersong.services.agent.policy.file import PolicyError
from undersong.services.agent.policy.signers import signed_recipes
from undersong.services.agent.settings import AgentSettings, OwnerSettings
from undersong.shared.clock import utc_text
from undersong.shared.files import FileMark, file_mark, open_lock
from undersong.shared.identity.highwater import DurableLines
from undersong.shared.identity.owner import read_signature, signature_file
from undersong.shared.ids import digest_of

POLICY: Final = "policy"
NO_NAME: Final = "-"
_WORDS: Final = 4  # of a line: kind, name, number, what


class PolicyUnsigned(PolicyError):
    """The policy is not what the owners signed last: the site does nothing until it is."""

    code = POLICY_SIGNATURE


@dataclass(frozen=True, slots=True)
class Reached:
    """How far something has come: a number that only rises, and what was there when it was reached."""

    number: int = 0
    what: str = ""


class OwnerMark:
    """What owners decided last, in a file outside the state folder that is never restored.

    Which policy was used (its serial), which consent is over (the number of the decision), how many runs of it were
    used: an earlier copy of the state folder, or of the policy, takes none of it back. Several processes may write.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lines = path, DurableLines(path)
        self._seen: tuple[FileMark | None, dict[tuple[str, str], Reached]] = (None, {})

    def read(self, kind: str, name: str = NO_NAME) -> Reached:
        """Return how far one thing has come; OSError where the file cannot be read."""
        return self._all().get((kind, name), Reached())

    def reach(self, kind: str, number: int, what: str, name: str = NO_NAME) -> None:
        """Note that one thing has come so far, durably, unless it has come further; OSError where that fails."""
        if number <= self.read(kind, name).number:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open_lock(self._path.with_name(self._path.name + ".lock")) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = dict(self._all())
            if number > known.get((kind, name), Reached()).number:
                known[kind, name] = Reached(number, what)
                self._lines.replace([(*key, value.number, value.what or NO_NAME) for key, value in known.items()])

    def _all(self) -> Mapping[tuple[str, str], Reached]:
        before, known = self._seen
        now = file_mark(self._path)
        if now is not None and now == before:
            return known
        found: dict[tuple[str, str], Reached] = {}
        for words in self._lines.read():
            if len(words) == _WORDS and words[2].isascii() and words[2].isdigit():
                key, number = (words[0], words[1]), int(words[2])
                if number > found.get(key, Reached()).number:
                    found[key] = Reached(number, words[3])
        self._seen = (now, found)
        return found


def load_policy(settings: AgentSettings, *, note: bool = False) -> tuple[Policy, tzinfo]:
    """Read the policy, and where agent.yaml names owners, their signature over the very bytes that are read.

    `note` that it is used, so that no older one is accepted later. Raises PolicyError, of it PolicyUnsigned.
    """
    data = policies.read(settings.policy)
    if settings.owners is not None:
        _check(settings, settings.owners, data, note=note)
    file = policies.parse(settings.policy, data)
    if file.consent != "none" and settings.owners is None:
        raise PolicyError(
            f"{settings.policy}: consent: {file.consent} needs owners who can approve: make a key "
            "(undersong owner init) and name it under `owners` in agent.yaml"
        )
    return policies.to_policy(file, signed_recipes(settings.recipes)), ZoneInfo(file.timezone)


def _check(settings: AgentSettings, owners: OwnerSettings, data: bytes, *, note: bool) -> None:
    path, beside = settings.policy, signature_file(settings.policy)
    again = f"an owner reads {path} and signs it: undersong policy sign {path}"
    try:
        found = read_signature(beside)
        mark = OwnerMark(settings.owner_mark)
        newest = mark.read(POLICY)
    except (OSError, ValueError) as error:
        raise PolicyUnsigned(f"{path}: its signature cannot be read: {error}; {again}") from error
    if found is None:
        raise PolicyUnsigned(f"{path} is not signed: there is no {beside.name}; {again}")
    if found.digest != digest_of(data):
        raise PolicyUnsigned(f"{path} is not what its owners signed: it was edited or cut off since; {again}")
    known = found.signers(owners.keys)
    if len(known) < owners.need:
        said = f"{len(known)} of {owners.need} signatures that agent.yaml needs (owners.need) are there"
        raise PolicyUnsigned(f"{path}: {said}; {again}")
    if found.serial < newest.number or (found.serial == newest.number and found.digest != newest.what):
        raise PolicyUnsigned(
            f"{path}: signed {utc_text(found.serial)}, and one that was signed {utc_text(newest.number)} has been used "
            f"already: an older policy is not taken back; {again}"
        )
    if note:
        try:
            mark.reach(POLICY, found.serial, found.digest)
        except OSError as error:
            raise PolicyUnsigned(f"{settings.owner_mark} cannot be written: {error.strerror}") from error
