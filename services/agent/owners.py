"""What the agent accepts as its owners' word: policies that they signed, and none older than it has seen."""

from __future__ import annotations

import fcntl
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from undersong.services.agent import policy as policies
from undersong.services.agent.domain import POLICY_SIGNATURE, Policy
from undersong.services.agent.policy import PolicyError
from undersong.services.agent.settings import AgentSettings, OwnerSettings
from undersong.shared.files import open_lock
from undersong.shared.identity.highwater import DurableLines
from undersong.shared.identity.owner import PolicySignature, read_signature, signature_file
from undersong.shared.ids import Digest, digest_of

_POLICY: Final = "policy"
_WORDS: Final = 3


class PolicyUnsigned(PolicyError):
    """The policy is not what the owners signed last: the site does nothing until it is."""

    code = POLICY_SIGNATURE


class PolicyMark:
    """The newest policy that was accepted, in a file outside the state folder that is never restored."""

    def __init__(self, path: Path) -> None:
        self._path, self._lines = path, DurableLines(path)

    def read(self) -> tuple[int, Digest | None]:
        """Return the serial and digest of the newest signed policy, (0, None) where there was none; OSError."""
        newest: tuple[int, Digest | None] = (0, None)
        for words in self._lines.read():
            if len(words) == _WORDS and words[0] == _POLICY and words[1].isdigit() and int(words[1]) > newest[0]:
                newest = int(words[1]), Digest(words[2])
        return newest

    def reach(self, signature: PolicySignature) -> None:
        """Note a policy that is used from now on, durably; OSError where that fails."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open_lock(self._path.with_name(self._path.name + ".lock")) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if signature.serial > self.read()[0]:
                self._lines.replace([(_POLICY, signature.serial, signature.digest)])


def load_policy(settings: AgentSettings, *, note: bool = False) -> tuple[Policy, tzinfo]:
    """Read the policy, and where agent.yaml names owners, their signature over the very bytes that are read.

    `note` that it is used, so that no older one is accepted later. Raises PolicyError, of it PolicyUnsigned.
    """
    data = policies.read(settings.policy)
    if settings.owners is not None:
        _check(settings, settings.owners, data, note=note)
    file = policies.parse(settings.policy, data)
    return policies.to_policy(file), ZoneInfo(file.timezone)


def _check(settings: AgentSettings, owners: OwnerSettings, data: bytes, *, note: bool) -> None:
    path, beside = settings.policy, signature_file(settings.policy)
    again = f"an owner reads {path} and signs it: undersong policy sign {path}"
    try:
        found = read_signature(beside)
        mark = PolicyMark(settings.owner_mark)
        newest, digest = mark.read()
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
    if found.serial < newest or (found.serial == newest and found.digest != digest):
        raise PolicyUnsigned(
            f"{path}: signed {_date(found.serial)}, and one that was signed {_date(newest)} has been used already: "
            f"an older policy is not taken back; {again}"
        )
    if note:
        try:
            mark.reach(found)
        except OSError as error:
            raise PolicyUnsigned(f"{settings.owner_mark} cannot be written: {error.strerror}") from error


def _date(serial: int) -> str:
    return datetime.fromtimestamp(serial / 1000, UTC).isoformat(timespec="seconds")
