"""What the pages about keys and verification show, as frozen values that `source.py` fills. Times are aware UTC."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from undersong.services.coordinator.views.membership import certificate_state
from undersong.shared.sections import Section


@dataclass(frozen=True, slots=True)
class Key:
    """The present certificate of one party, and so its key."""

    party: str
    kind: str
    keyid: str
    since: datetime
    until: datetime
    revoked_at: datetime | None
    earlier: int  # certificates that it had before
    subject: str = ""  # the site's id, or the service's name

    @property
    def rotates_at(self) -> datetime:
        """When the party renews it by itself: with a third of its life left."""
        return self.until - (self.until - self.since) / 3

    def state(self, now: datetime) -> str:
        """Return one of revoked, ended, ends soon, due (it should have been renewed an hour ago), valid."""
        if self.revoked_at is not None:
            return "revoked"
        if now >= self.until:
            return "ended"
        if certificate_state(self.since, self.until, None, now) == "ends-soon":
            return "ends soon"
        return "due" if now > self.rotates_at + timedelta(hours=1) else "valid"


@dataclass(frozen=True, slots=True)
class KeysPage:
    """The inventory of keys; `fault` says why there is none."""

    keys: tuple[Key, ...]
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class SpentItem:
    """What noisy releases cost one unit together; epsilon is None where there is no bound."""

    unit: str
    releases: int
    epsilon: float | None
    delta: float


@dataclass(frozen=True, slots=True)
class JobExposure:
    """What one job released: the noisy sums' costs, and how many exact sums it opened."""

    job_id: str
    name: str
    spent: tuple[SpentItem, ...]
    exact: int


@dataclass(frozen=True, slots=True)
class DatasheetPage:
    """A version's datasheet in sections; `keyid` is the fingerprint of the certificate that it is signed with.

    document: the signed sheet as JSON. made_at: when it was made, and given to the registry.
    """

    version_id: str
    title: str
    sections: tuple[Section, ...]
    keyid: str
    document: str
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Exposure:
    """What was released from one data set, over all jobs that are shown; `spent` composes all of them."""

    federation_id: str
    dataset: str
    jobs: int
    releases: int
    smallest: int | None  # the fewest sites that stand in any one release
    engines: tuple[str, ...]
    exact: int = 0
    spent: tuple[SpentItem, ...] = ()
    by_job: tuple[JobExposure, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckItem:
    """One check over the evidence; `state` is passed, caution (passed, and worth reading) or failed."""

    name: str
    state: str
    sentence: str


@dataclass(frozen=True, slots=True)
class PrivacyAuditItem:
    """What a privacy audit of the version found; `broken` when it refutes the claim."""

    kind: str
    sentence: str
    broken: bool
    recorded_by: str
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Audit:
    """The checks over the evidence about a round; `pinned` is the fingerprint of the authority they build on.

    `privacy` are the privacy audits of its version.
    """

    round_id: str
    version_id: str | None
    pinned: str
    checks: tuple[CheckItem, ...]
    privacy: tuple[PrivacyAuditItem, ...] = ()

    @property
    def claim_broken(self) -> bool:
        """Whether a privacy audit refuted the version's claim."""
        return any(item.broken for item in self.privacy)

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return sum(check.state == "failed" for check in self.checks)

    @property
    def cautions(self) -> tuple[str, ...]:
        """Sentences of checks that passed and should be known nevertheless."""
        return tuple(check.sentence for check in self.checks if check.state == "caution")
