"""What the pages show, as frozen values: nothing here knows SQL, HTTP or HTML.

`source.py` fills these from the coordinator's use cases; the templates read them. All times are aware UTC.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from undersong.services.coordinator.dashboard.audit_views import SpentItem
from undersong.services.coordinator.dashboard.job_log import LogLine
from undersong.shared.statistics.results import Result

TERMINAL_JOB_STATES = frozenset({"succeeded", "failed", "cancelled"})
TERMINAL_ROUND_STATES = frozenset({"published", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Span:
    """One stacked piece of a round's timeline: `start_s` and `length_s` count from the round's creation."""

    phase: str
    start_s: float
    length_s: float


@dataclass(frozen=True, slots=True)
class TaskItem:
    """One site's part in one round."""

    site_id: str
    site_name: str
    state: str
    phase: str
    progress: float
    attempts: int
    seen_at: datetime | None
    code: str | None = None
    message: str | None = None
    trace: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the site's part ended without an update that counts."""
        return self.state in {"rejected", "expired", "dead", "failed"}


@dataclass(frozen=True, slots=True)
class FaultItem:
    """What a site did against the protocol of a round's engine, or, where `disputed`, what others say that it did."""

    site_name: str
    code: str
    message: str
    disputed: bool = False


@dataclass(frozen=True, slots=True)
class StepItem:
    """A step of a round's engine, with the number of sites that it is closed over."""

    step: str
    sites: int
    closed_at: datetime


@dataclass(frozen=True, slots=True)
class TaskMove:
    """A change of one site's task, as the job's events tell it."""

    round_id: str
    site_id: str
    state: str
    at: datetime
    attempt: int
    code: str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class RoundItem:
    """One attempt at one round."""

    id: str
    job_id: str
    number: int
    attempt: int
    kind: str
    state: str
    reason: str | None
    engine: str
    got: int
    min_cohort: int
    target: int
    created_at: datetime
    deadline: datetime | None
    ended_at: datetime | None
    phase_times: tuple[tuple[str, datetime], ...] = ()
    version_id: str | None = None
    manifest_digest: str | None = None
    model_version: str | None = None
    epoch: int | None = None
    tasks: tuple[TaskItem, ...] = ()
    faults: tuple[FaultItem, ...] = ()
    cohort: tuple[str, ...] = ()  # the ids of the sites that were asked
    clip_norm: float | None = None  # the limit of an update's norm
    within: float | None = None  # the noisy share of updates within it, where it moves
    clipped: int | None = None  # how many updates were over a limit, where they are counted
    steps: tuple[StepItem, ...] = ()  # of its engine, in order, once the round has ended
    staleness: tuple[int, ...] = ()  # versions that came since its changes were begun, where they were trained before

    @property
    def open(self) -> bool:
        """Whether the round has not ended yet."""
        return self.state not in TERMINAL_ROUND_STATES

    def late(self, now: datetime) -> bool:
        """Return whether the round is open past its deadline."""
        return self.open and self.deadline is not None and now > self.deadline

    def spans(self, now: datetime) -> tuple[Span, ...]:
        """Return the phases as stacked pieces, up to the round's end or to `now`."""
        times = [*self.phase_times, ("end", self.ended_at or now)]
        pieces = []
        for (phase, begins), (_, ends) in pairwise(times):
            length_s = max(0.0, (ends - begins).total_seconds())
            pieces.append(Span(phase, (begins - self.created_at).total_seconds(), length_s))
        return tuple(pieces)

    def seconds(self, now: datetime) -> float:
        """Return how long the round took, or has taken so far."""
        return max(0.0, ((self.ended_at or now) - self.created_at).total_seconds())


@dataclass(frozen=True, slots=True)
class Measure:
    """The metrics that the sites computed together for one model version; by group where the job asks for groups."""

    round_number: int
    values: Mapping[str, float]
    groups: Mapping[str, Mapping[str, float] | None] = field(default_factory=dict)  # None: few rows
    curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    sites: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of those that tell their own
    spread: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CauseItem:
    """One distinct fault of the sites in a job's last failed attempt, and at how many sites it happened."""

    code: str
    sentence: str
    sites: int


@dataclass(frozen=True, slots=True)
class ExclusionItem:
    """A site that takes part in no later round of a job."""

    site_name: str
    round_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class JobItem:
    """A job as lists show it."""

    id: str
    name: str
    federation_id: str
    state: str
    reason: str | None
    model_name: str
    recipe: str
    dataset: str
    strategy: str
    engine: str
    rounds_done: int
    rounds_total: int
    created_at: datetime
    ended_at: datetime | None
    explanation: str | None = None  # the reason as a sentence, and what to do
    version_id: str | None = None
    waiting_since: datetime | None = None  # since when too few sites are there for a round
    awaits: tuple[str, ...] = ()  # the sites whose owners have not consented yet
    kind: str = "train"
    spec: Mapping[str, object] = field(default_factory=dict)
    last_failure: str | None = None  # why the last attempt at the present step failed, as a sentence
    causes: tuple[CauseItem, ...] = ()
    excluded: tuple[ExclusionItem, ...] = ()
    features: tuple[str, ...] = ()
    label: str | None = None
    cautions: tuple[str, ...] = ()  # why the newest metrics may say little
    unused: tuple[tuple[str, str], ...] = ()  # columns that are not read, with the reason
    tags: tuple[str, ...] = ()
    owner: str = ""  # the user who submitted it
    privacy: str = ""  # what its noise promises; nothing where sums are exact

    @property
    def open(self) -> bool:
        """Whether the job can still move."""
        return self.state not in TERMINAL_JOB_STATES

    @property
    def stuck(self) -> bool:
        """Whether it does not get on: its last attempt failed, or the platform paused it."""
        return self.open and (self.last_failure is not None or (self.state == "paused" and self.reason is not None))


@dataclass(frozen=True, slots=True)
class PartItem:
    """One site's part in a job, counted in tasks: one for each attempt at each round that the site was asked for."""

    site_name: str
    asked: int
    answered: int
    missed: int
    refused: int
    outstanding: int
    faults: tuple[tuple[str, int], ...]  # codes against the engine's protocol, each with its number of rounds
    answered_at: datetime | None
    code: str | None = None  # why the newest task that did not succeed did not
    message: str | None = None
    round_id: str | None = None
    recent: tuple[tuple[str, str], ...] = ()  # rounds of late, oldest first: their names, and the state of its task
    trained: int = 0  # changes that wait at the site for a round to collect them


@dataclass(frozen=True, slots=True)
class JobPage:
    """Everything that one job's page shows."""

    job: JobItem
    rounds: tuple[RoundItem, ...]  # the newest
    newest: Measure | None
    may_steer: bool
    results: tuple[Result, ...] = ()  # of a statistics job
    parts: tuple[PartItem, ...] = ()
    spent: tuple[SpentItem, ...] = ()  # by noisy sums, so far
    earlier: bool = False  # whether there are rounds before these

    @property
    def current(self) -> RoundItem | None:
        """The round that is under way, if any."""
        return next((round_ for round_ in reversed(self.rounds) if round_.open), None)

    @property
    def failures(self) -> tuple[tuple[RoundItem, TaskItem], ...]:
        """Each site's failure in any round, newest round first."""
        return tuple((r, task) for r in reversed(self.rounds) for task in r.tasks if task.failed)


@dataclass(frozen=True, slots=True)
class TimelinePage:
    """Some rounds of a job, oldest first, with the moves of their tasks; `before`: the round that they precede."""

    job: JobItem
    rounds: tuple[RoundItem, ...]
    moves: tuple[TaskMove, ...]
    names: Mapping[str, str]  # site id -> name
    earlier: bool
    before: str | None = None


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some events of a job as lines, newest first; `before`: the number of the event that they precede."""

    job: JobItem
    lines: tuple[LogLine, ...]
    earlier: bool
    before: int | None = None


@dataclass(frozen=True, slots=True)
class DatasetItem:
    """A data set that a site offers: its shape, never its content."""

    name: str
    kind: str
    rows: int | None
    columns: int
    label: str | None


@dataclass(frozen=True, slots=True)
class ComparisonItem:
    """A data set over the sites of its federation.

    `faults` keep sites from training together, `notes` were matched by text, `absent` are the sites without the data
    set, with the reason.
    """

    dataset: str
    sites: tuple[str, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    absent: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SiteItem:
    """One organisation's agent."""

    id: str
    name: str
    owner: str
    federation_id: str
    suspended: bool
    online: bool
    seen_at: datetime | None
    agent_version: str | None
    runner: str | None
    datasets: tuple[DatasetItem, ...]
    recipes: tuple[str, ...]
    cpus: int | None
    memory_bytes: int | None
    gpus: tuple[str, ...]
    alarms: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """One of suspended, never seen, online, away."""
        if self.suspended:
            return "suspended"
        if self.seen_at is None:
            return "never seen"
        return "online" if self.online else "away"


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A model version that a round of this coordinator published."""

    version_id: str
    model_name: str
    job_id: str
    job_name: str
    round_id: str
    round_number: int
    contributors: int
    published_at: datetime
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class NowPage:
    """The first page: is anything stuck?"""

    jobs: tuple[JobItem, ...]
    current: Mapping[str, RoundItem]  # job id -> its round under way
    sites: tuple[SiteItem, ...]
    last_release: PublishedVersion | None
    degraded: tuple[str, ...]

    def late(self, now: datetime) -> tuple[RoundItem, ...]:
        """Return rounds that are open past their deadline."""
        return tuple(round_ for round_ in self.current.values() if round_.late(now))

    @property
    def online(self) -> int:
        """How many sites were heard just now."""
        return sum(site.status == "online" for site in self.sites)


@dataclass(frozen=True, slots=True)
class DeadTask:
    """A task that was given up after too many attempts."""

    id: str
    job_id: str
    round_id: str
    site_name: str
    kind: str
    attempts: int
    code: str | None
    message: str | None
    given_up_at: datetime | None
    requeueable: bool


@dataclass(frozen=True, slots=True)
class OperationsPage:
    """What waits, what was given up, and how the last day went against what is promised."""

    outbox: int
    outbox_age_s: float
    open_rounds: int
    overdue_s: float
    open_tasks: int
    leased_tasks: int
    sites_recent: int
    sites_silent: int
    database_bytes: int
    redis: bool
    epoch: int
    published: int
    failed: int
    cancelled: int
    typical_s: float | None
    slow_s: float | None
    late_share: float
    dead: tuple[DeadTask, ...]
    may_act: bool
