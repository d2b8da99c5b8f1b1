"""What the services answer, as types.

Every type keeps fields that it does not know (a newer service may send more), so `extra` fields are readable too.
"""

from datetime import datetime
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from undersong.client import frames
from undersong.client.showing import html_of
from undersong.shared.statistics.results import Result
from undersong.shared.wire.privacy import terms_sentence

T = TypeVar("T")

TERMINAL_JOB_STATES = frozenset({"succeeded", "failed", "cancelled"})
LAST_EVENTS = frozenset(f"job.{state}" for state in TERMINAL_JOB_STATES)
ENDED_ROUND_PHASES = frozenset({"published", "failed", "cancelled"})


class Answer(BaseModel):
    """The base of every answer: frozen, tolerant of fields that are newer than this client."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=(), defer_build=True)
    _client: Any = PrivateAttr(default=None)

    def asked_by(self, client: object) -> Self:
        """Keep the client that asked, so that the answer can ask for more (`frames`)."""
        self._client = client
        return self

    def _repr_html_(self) -> str:
        """Return a table of the fields, for notebooks."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        named = fields.pop("name", None) or fields.get("id", "")
        return html_of(f"{type(self).__name__} {named}", fields, state=str(fields.pop("state", "")))


class Page(Answer, Generic[T]):
    """One page of a list; `next` continues it."""

    items: list[T]
    next: str | None = None


class Federation(Answer):
    """Organisations that learn together."""

    id: str
    name: str
    created_at: datetime | None = None


class Site(Answer):
    """One member of a federation, with what its agent told about itself."""

    id: str
    name: str
    federation_id: str
    owner: str | None = None
    state: str = "unknown"
    online: bool = False
    last_seen_at: datetime | None = None
    profile: dict[str, Any] | None = None


class ColumnComparison(Answer):
    """One column of a data set over the sites that have it; `state` is same, matched, partial or different."""

    name: str
    state: str
    agreed: dict[str, Any] | None = None
    declared: dict[str, dict[str, Any]] = Field(default_factory=dict)
    missing: list[str] = Field(default_factory=list)
    faults: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class Comparison(Answer):
    """A data set as the sites of a federation declare it; `absent` are the other sites, each with the reason."""

    dataset: str
    sites: list[str]
    absent: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str | None] = Field(default_factory=dict)
    matches: bool
    columns: list[ColumnComparison]


class Cause(Answer):
    """One distinct fault of the sites in a job's last attempt, and at how many sites it happened."""

    code: str
    sentence: str
    sites: int


class Exclusion(Answer):
    """A site that takes part in no later round of a job, and why."""

    site_id: str
    site_name: str | None = None
    round_id: str
    code: str
    message: str | None = None
    since: datetime | None = None


class Absence(Answer):
    """A site that cannot take part in a waiting job's rounds as it is now."""

    site_id: str
    site_name: str
    reason: str
    consent: str | None = None


class JobPrivacy(Answer):
    """What the noise of a job's rounds promises each site, or each record."""

    model: str
    unit: str
    noise_multiplier: float
    delta: float
    epsilon: float
    rounds: int
    min_sites: int
    colluding: int = 0
    adaptive_clip: dict[str, Any] | None = None
    correlated: dict[str, int] | None = None

    @property
    def sentence(self) -> str:
        """The terms in words."""
        return terms_sentence(self.model_dump())


class NoisePoint(Answer):
    """The least noise for an epsilon; None where none is enough."""

    epsilon: float
    noise_multiplier: float | None = None


class RoundsPoint(Answer):
    """What a number of rounds costs with the plan's noise; None where it bounds nothing."""

    rounds: int
    epsilon: float | None = None


class ParticipationPlan(Answer):
    """How often a site takes part, and by which factor noise that is correlated over rounds would be smaller."""

    sites: int
    eligible: int
    separation: int
    participations: int
    saving: float
    advice: str


class ClippingPlan(Answer):
    """What a clip norm that follows the updates costs, and how well it can follow them."""

    quantile: float
    rate: float
    start: float
    update_noise: float
    bit_noise: float
    share_noise: float


class PrivacyPlan(Answer):
    """What noise a job has and what it costs; of an exact job, what noise would cost."""

    terms: JobPrivacy | None = None
    model: str
    delta: float
    rounds: int
    min_sites: int
    over_noise: list[NoisePoint] = Field(default_factory=list)
    over_rounds: list[RoundsPoint] = Field(default_factory=list)
    deviation: float | None = None
    mean_noise: float | None = None
    participation: ParticipationPlan | None = None
    clipping: ClippingPlan | None = None


class Job(Answer):
    """A training job; `absent` is told only of one job, and only while it waits."""

    id: str
    name: str
    federation_id: str
    state: str
    reason: str | None = None
    explanation: str | None = None
    last_failure: str | None = None
    causes: list[Cause] = Field(default_factory=list)
    excluded: list[Exclusion] = Field(default_factory=list)
    spec: dict[str, Any] = Field(default_factory=dict)
    unused: list[dict[str, str]] = Field(default_factory=list)
    model_id: str | None = None
    version_id: str | None = None
    warnings: list[dict[str, Any]] = Field(default_factory=list)
    progress: dict[str, Any] = Field(default_factory=dict)
    privacy: JobPrivacy | None = None
    cautions: list[str] = Field(default_factory=list)
    features: list[str] = Field(default_factory=list)
    label: str | None = None
    waiting_since: datetime | None = None
    absent: list[Absence] = Field(default_factory=list)
    created_by: str | None = None
    created_at: datetime | None = None
    finished_at: datetime | None = None

    def rounds_frame(self) -> Any:
        """Return a pandas data frame with a row for each round; of an asynchronous client, a coroutine of it."""
        return frames.asked(self._client, lambda client: client.rounds(self.id), frames.rounds_frame)

    def metrics_frame(self) -> Any:
        """Return a pandas data frame with a row for each evaluation; of an asynchronous client, a coroutine of it."""
        return frames.asked(self._client, lambda client: client.compare_jobs([self.id]), frames.curves_frame)

    def _repr_html_(self) -> str:
        """Return how far the job is, for notebooks."""
        fields = {
            "why": self.explanation or self.reason or self.last_failure,
            "recipe": (self.spec.get("recipe") or {}).get("name"),
            "data set": (self.spec.get("data") or {}).get("dataset"),
            "engine": self.spec.get("engine"),
            "tags": self.spec.get("tags"),
            "newest version": self.version_id,
            "privacy": None if self.privacy is None else self.privacy.sentence,
            "id": self.id,
        }
        done, rounds = self.progress.get("trained"), self.progress.get("rounds")
        bar = (done, rounds) if isinstance(done, int) and isinstance(rounds, int) else None
        return html_of(self.name, fields, bar=bar, state=self.state)

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in TERMINAL_JOB_STATES

    @property
    def stalled(self) -> bool:
        """Whether the platform paused it because it cannot go on: `resume_job` continues it."""
        return self.state == "paused" and self.reason is not None


class Curve(Answer):
    """Metrics of a job at each evaluation, oldest first, and what it had cost until then; all lists are as long."""

    rounds: list[int] = Field(default_factory=list)
    seconds: list[float] = Field(default_factory=list)
    update_bytes: list[int] | None = None
    metrics: dict[str, list[float | None]] = Field(default_factory=dict)


class ComparedJob(Answer):
    """One of the jobs of a comparison."""

    id: str
    name: str
    state: str
    kind: str = "train"
    engine: str = ""
    created_by: str | None = None
    created_at: datetime | None = None
    finished_at: datetime | None = None
    seconds: float = 0.0
    trained: int = 0
    sites: float | None = None
    update_bytes: int | None = None
    epsilon: float | None = None
    delta: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    curve: Curve = Field(default_factory=Curve)


class SettingDifference(Answer):
    """A setting that is not the same in all compared jobs: its value in each, in their order."""

    path: str
    values: list[Any]


class JobComparison(Answer):
    """Up to eight jobs side by side: what differs in their settings, newest metrics, curves."""

    jobs: list[ComparedJob]
    settings: list[SettingDifference] = Field(default_factory=list)
    metrics: list[str] = Field(default_factory=list)

    def frame(self) -> Any:
        """Return a pandas data frame with a row for each evaluation of each job."""
        return frames.curves_frame(self)

    def _repr_html_(self) -> str:
        """Return the jobs with their newest metrics, for notebooks."""
        return html_of("Comparison", {job.name: {"state": job.state, **job.metrics} for job in self.jobs})


class Round(Answer):
    """One round of a job."""

    id: str
    job_id: str
    number: int
    kind: str
    phase: str
    attempt: int = 1
    clip_norm: float | None = None
    reason: str | None = None
    cohort: list[str] = Field(default_factory=list)
    got: int = 0
    created_at: datetime | None = None
    finished_at: datetime | None = None
    metrics: dict[str, Any] | None = None
    result: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.phase in ENDED_ROUND_PHASES


class Participation(Answer):
    """One site's part in a job, counted in tasks over all rounds and attempts."""

    site_id: str
    site_name: str | None = None
    asked: int = 0
    done: int = 0
    rejected: int = 0
    expired: int = 0
    dead: int = 0
    outstanding: int = 0
    receipts: int = 0
    answered_at: datetime | None = None
    faults: dict[str, int] = Field(default_factory=dict)
    code: str | None = None
    message: str | None = None
    round_id: str | None = None


class UnitSpent(Answer):
    """What a job's noisy sums cost each site, or each record, together; epsilon is None where there is no bound."""

    unit: str
    sums: int
    epsilon: float | None
    delta: float

    @property
    def sentence(self) -> str:
        """It in a phrase."""
        bound = "without bound" if self.epsilon is None else f"{self.epsilon:.4g}"
        return f"epsilon {bound} for each {self.unit} at delta {self.delta:g} by {self.sums} noisy sums"


class JobSpent(Answer):
    """What a job's rounds opened so far, and what the noisy sums among them cost."""

    job_id: str
    opened: int
    exact: int
    spent: list[UnitSpent]

    @property
    def sentence(self) -> str:
        """It in one sentence."""
        parts = [each.sentence for each in self.spent]
        exact = f"{self.exact} exact sums, which nothing bounds" if self.exact else ""
        return "; ".join(part for part in (*parts, exact) if part) or "nothing was opened"


class StatisticsResults(Answer):
    """What a statistics job has found so far, in the order of its queries; hidden numbers are None."""

    job_id: str
    state: str
    min_cell: int
    min_cohort: int
    rounds: int
    results: list[Result]


class Event(Answer):
    """One entry of a job's append-only history."""

    id: str
    type: str
    data: dict[str, Any] = Field(default_factory=dict)


class Validation(Answer):
    """What a valid job would do: which columns it would read, at which sites."""

    features: list[str] = Field(default_factory=list)
    label: str | None = None
    columns: list[dict[str, Any]] = Field(default_factory=list)
    unused: list[dict[str, str]] = Field(default_factory=list)
    sites: list[str] = Field(default_factory=list)
    privacy: JobPrivacy | None = None
    warnings: list[dict[str, Any]] = Field(default_factory=list)


class Token(Answer):
    """An API token; `token` is in the answer that made it alone."""

    id: str
    name: str = ""
    user_id: str = ""
    token: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    scopes: list[str] | None = None
    sign_on: bool = False


class SignOn(Answer):
    """Who signs people on; None: API tokens alone."""

    issuer: str | None = None


class DeviceSignOn(Answer):
    """A sign-on that a person confirms in a browser."""

    handle: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None = None
    interval_s: int = 5
    expires_in_s: int = 600


class DeviceAnswer(Answer):
    """How a sign-on stands: "pending", "slower" (ask five seconds less often) or "done", with the token."""

    state: str
    token: Token | None = None


class Webhook(Answer):
    """An address that is told what happens to a federation's jobs; `secret` is in the answer that made it alone."""

    id: str
    federation_id: str
    url: str
    events: list[str] = []
    secret: str | None = None
    created_by: str = ""
    created_at: datetime | None = None
    waiting: int = 0
    dead: int = 0


class WebhookDelivery(Answer):
    """One event on its way to a webhook; `state` is waiting, delivered or dead, `answer` what came back last."""

    id: str
    webhook_id: str
    type: str
    job_id: str | None = None
    event: int | None = None
    state: str = ""
    attempts: int = 0
    answer: str | None = None
    created_at: datetime | None = None
    next_attempt_at: datetime | None = None
    finished_at: datetime | None = None


class ScheduledTime(Answer):
    """What came of a schedule's last time: `outcome` is submitted, skipped or refused."""

    at: datetime
    outcome: str
    job_id: str | None = None
    reason: str | None = None


class Schedule(Answer):
    """A job document that is submitted again and again; `state` is active, paused or ended."""

    id: str
    federation_id: str
    name: str
    cron: str
    timezone: str = "UTC"
    words: str = ""
    overlap: bool = False
    document: dict[str, Any] = {}
    created_by: str = ""
    created_at: datetime | None = None
    state: str = ""
    upcoming: list[datetime] = []
    last: ScheduledTime | None = None


class SweepPlan(Answer):
    """What a sweep would be: how many jobs, what it varies, and what all may cost in privacy."""

    jobs: int
    parameters: list[str] = []
    epsilon: float | None = None
    delta: float | None = None
    sites: list[str] = []


class SweepItem(Answer):
    """A sweep in a list; `states` counts its jobs."""

    id: str
    federation_id: str
    name: str
    created_by: str = ""
    created_at: datetime | None = None
    state: str = ""
    parallel: int = 1
    states: dict[str, int] = {}


class SweepJob(Answer):
    """One job of a sweep: what it varies, its state and its newest metrics."""

    place: int
    values: list[Any] = []
    state: str = ""
    job_id: str | None = None
    reason: str | None = None
    metrics: dict[str, float] = {}


class Sweep(SweepItem):
    """A sweep with its jobs."""

    document: dict[str, Any] = {}
    parameters: list[str] = []
    metrics: list[str] = []
    better_small: list[str] = []
    epsilon: float | None = None
    delta: float | None = None
    jobs: list[SweepJob] = []

    def frame(self) -> Any:
        """Return a pandas data frame with a row for each job."""
        return frames.sweep_frame(self)


class User(Answer):
    """A person or program that uses the API."""

    id: str
    name: str
    roles: list[dict[str, Any]] = Field(default_factory=list)
    created_at: datetime | None = None
    revoked_at: datetime | None = None


class Me(Answer):
    """Who the present token belongs to."""

    roles: list[dict[str, Any]] = Field(default_factory=list)


class EnrolmentToken(Answer):
    """A single-use token that lets one agent or service enrol."""

    token_id: str
    token: str
    expires_at: datetime


class SiteInvitation(Answer):
    """A site's enrolment token, shown once; `needs_approval`: an operator approves the key that uses it."""

    id: str
    site_id: str
    token: str
    expires_at: datetime
    needs_approval: bool = True


class Invitation(Answer):
    """An invitation at the keys service; `fingerprint` is of the key that asked for a certificate."""

    id: str
    site_id: str
    federation_id: str | None = None
    invited_by: str = ""
    state: str
    fingerprint: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None


class SiteCertificate(Answer):
    """A site's certificate; `state` is valid, due, ends-soon, ended or revoked."""

    keyid: str
    state: str
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None = None
    reason: str | None = None


class AuditEntry(Answer):
    """Who changed what about sites, people and their rights."""

    id: str
    at: datetime
    actor: str
    action: str
    subject: str
    federation_id: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)


class PendingAction(Answer):
    """A change that one person asked for and another confirms; `mine`: the caller asked for it."""

    id: str
    action: str
    subject: str
    name: str = ""
    data: dict[str, Any] = Field(default_factory=dict)
    reason: str = ""
    state: str
    requester: str = ""
    requested_at: datetime | None = None
    expires_at: datetime | None = None
    decider: str | None = None
    mine: bool = False


class Authority(Answer):
    """The federation's certificate authority."""

    certificate_pem: str
    fingerprint: str


class Model(Answer):
    """A named model; its versions are immutable."""

    id: str
    name: str
    federation_id: str
    aliases: dict[str, str] = Field(default_factory=dict)
    versions: int | None = None
    created_at: datetime | None = None


class Audit(Answer):
    """A privacy audit of a version; `broken` when its lower bound on epsilon is above the claim."""

    document: dict[str, Any]
    broken: bool = False
    recorded_at: datetime | None = None
    recorded_by: str = ""


class Version(Answer):
    """One immutable version of a model; `audits` are told only of one version."""

    id: str
    model_id: str
    number: int
    content_digest: str
    size: int | None = None
    lineage: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    claim_broken: bool = False
    audits: list[Audit] = Field(default_factory=list)
    created_at: datetime | None = None


class AliasChange(Answer):
    """One change of an alias: `by` is a user's id; without `version_id` it was removed."""

    at: datetime
    by: str
    alias: str
    version_id: str | None = None
    before: str | None = None
    reason: str = ""


class Health(Answer):
    """What a service says about itself at /health/ready."""

    ready: bool
    status_code: int
    document: dict[str, Any]
