"""The entries of `policy.yaml`, each with what it means: the file's form."""

from __future__ import annotations

from datetime import datetime, time
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from undersong.services.agent.domain.budgets import MAX_ATTEMPTS, MECHANISMS
from undersong.services.agent.domain.rules import EVERYTHING, OWN_FEDERATION, Detail, Hours
from undersong.shared.names import hint, near
from undersong.shared.secagg.engines import ENGINES, EngineFloors
from undersong.shared.statistics.measures import Kind as MeasureKind
from undersong.shared.wire.privacy import MAX_EPSILON, MIN_DELTA, PrivacyUnit

GIB = 2**30

Kind = Literal["initialise", "standardise", "statistics", "train", "evaluate"]
ROUND_KINDS: tuple[Kind, ...] = ("initialise", "statistics", "train", "evaluate")


def _plain_name(value: object) -> object:
    """Let a bare name stand for a rule; an unquoted `null` in YAML means the recipe of that name."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and "name" in value and value["name"] is None:
        return {**value, "name": "null"}
    return value


class RecipeEntry(BaseModel):
    """An allowed recipe: by name (as installed), or pinned by the digest of its code."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str | None = Field(default=None, description="The recipe's name")
    digest: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of its code; without it any installed version. Own recipes need it, or a signer",
    )
    signer: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="Public key whose signature beside a recipe's file allows that code, this version and later ones: "
        "own recipes only (`undersong recipe sign`)",
    )

    @model_validator(mode="after")
    def _something(self) -> RecipeEntry:
        if self.name is None and self.digest is None and self.signer is None:
            raise ValueError("a recipe needs a name, a digest, or a signer")
        if self.digest is not None and self.signer is not None:
            raise ValueError("a digest names one code already: give the digest or the signer")
        return self


class AllowedColumns(BaseModel):
    """The columns of one data set that recipes may read, the label among them; "*" for all."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    columns: list[str] | Literal["*"] = Field(description="Columns by name, the label among them; `*` for all")


class ResourcesEntry(BaseModel):
    """Limits of a recipe's process."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    memory_bytes: int = Field(default=8 * GIB, ge=64 * 2**20, description="Memory in bytes")
    file_bytes: int = Field(default=8 * GIB, ge=2**20, description="Largest single file in bytes")
    disk_bytes: int = Field(default=16 * GIB, ge=2**20, description="All files of a recipe together in bytes")
    model_bytes: int = Field(default=2 * GIB, ge=2**10, description="Largest model in bytes")
    task_s: float = Field(default=3600.0, gt=0, description="Seconds for one task")
    cpus: float = Field(
        default=0.0, ge=0, description="Processors; 0: those that can be used, shared with other agents"
    )
    pids: int = Field(default=256, ge=8, description="Processes and threads at once")
    gpus: int = Field(default=0, ge=-1, description="Graphics processors, with `runner: docker` only; -1 for all")


class StatisticsEntry(BaseModel):
    """What statistics jobs may ask: measures by name ("*": all), and the least that they must hide."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    measures: list[MeasureKind] | Literal["*"] = Field("*", description="Measures that may be asked; `*` for all")
    min_cell: int = Field(default=5, ge=1, description="Smallest count that jobs may show")
    min_cohort: int | None = Field(
        default=None, ge=1, description="Fewest sites in a sum; without it as for all rounds, and never fewer"
    )
    max_sums: int = Field(default=20_000, ge=1, description="Numbers that one round may open")


class SiteMetricsEntry(BaseModel):
    """Let jobs that ask for it have this site's own metrics, in the clear and under its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    min_rows: int = Field(
        default=100,
        ge=20,
        description="Fewest test rows; below, this site's metrics are not told, nor what rests on a class of under ten",
    )
    noise: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Standard deviation of Gaussian noise: on shares such as accuracy as it is, on errors as a share "
        "of their value. It blurs one figure, and is no promise of differential privacy",
    )


class BudgetEntry(BaseModel):
    """What rounds with noise may cost one data set within a period: all of them composed, at one delta."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    unit: PrivacyUnit = Field(
        PrivacyUnit.SITE, description="Whose contribution the noise hides: all that the `site` sends, or one `record`"
    )
    epsilon: float = Field(gt=0, le=MAX_EPSILON, description="Most that may be spent within the period")
    delta: float = Field(ge=MIN_DELTA, lt=1, description="The delta at which epsilon is computed; far below 1 / units")
    period_days: int = Field(
        default=365, ge=1, le=36_500, description="Length of the period in days; it ends now, and moves with time"
    )


def _several(value: object) -> object:
    return [value] if isinstance(value, dict) else value


def _mechanism(name: str) -> str:
    if name not in MECHANISMS:
        raise ValueError(f"{name!r} is no model of noise{hint(name, MECHANISMS)}")
    return name


class PrivacyEntry(BaseModel):
    """What rounds must promise and may cost; the ledger has what they did cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    require: bool = Field(
        False,
        description="Whether rounds without noise are refused. Otherwise their exact sums are charged to the ledger "
        "as answers without any bound, beside the budgets",
    )
    mechanisms: list[Annotated[str, AfterValidator(_mechanism)]] = Field(
        [str(model) for model in MECHANISMS], description="Models of noise that are allowed"
    )
    budgets: dict[str, Annotated[list[BudgetEntry], BeforeValidator(_several)]] = Field(
        {},
        description="Per data set one budget, or a list with one for each unit; a data set without one has no limit. "
        "With one, rounds with noise for another unit are refused",
    )
    max_participations: int | None = Field(
        default=None, ge=1, description="Most rounds of one kind of a job that this site takes part in; none: no limit"
    )
    min_separation: int | None = Field(
        default=None,
        ge=1,
        description="After number n of a job, this site takes part in number n + min_separation at the earliest; a "
        "job's rounds of all kinds are numbered together, but where noise is correlated over rounds those that train. "
        "None: no limit",
    )
    max_attempts: int = Field(
        default=MAX_ATTEMPTS,
        ge=1,
        description="Most attempts at one round with noise that this site answers: the noise of each is fresh, so many "
        "of them together would average it away. Attempts that certainly gave nothing away do not count",
    )
    min_colluding: int = Field(
        default=0,
        ge=0,
        description="With noise that the sites add together, how many of them a job must assume to collude at least "
        "(`privacy.colluding`)",
    )

    @model_validator(mode="after")
    def _one_for_a_unit(self) -> PrivacyEntry:
        for name, budgets in self.budgets.items():
            units = [budget.unit for budget in budgets]
            if not units or len(set(units)) != len(units):
                raise ValueError(f"budgets.{name}: there must be one budget, and at most one for each unit")
        return self


class AutomaticApproval(BaseModel):
    """Jobs that need no owner's approval: those of one recipe's code, as long as they cost little."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    digest: str | None = Field(default=None, pattern="^[0-9a-f]{64}$", description="SHA-256 of the recipe's code")
    signer: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="In place of the digest: the key that signed the recipe"
    )
    epsilon: float = Field(
        gt=0, le=MAX_EPSILON, description="Most epsilon of a whole job; one with an exact sum always waits"
    )
    delta: float = Field(
        default=1e-6, ge=MIN_DELTA, lt=1, description="The largest delta at which the job may claim that epsilon"
    )

    @model_validator(mode="after")
    def _one_code(self) -> AutomaticApproval:
        if (self.digest is None) is (self.signer is None):
            raise ValueError("give the digest of the recipe's code, or the signer of recipes")
        return self


def _federation(name: str) -> str:
    if name not in (OWN_FEDERATION, EVERYTHING) and not name.startswith("fed_"):
        raise ValueError(f"{name!r} is no federation's id{hint(name, (OWN_FEDERATION, EVERYTHING))}")
    return name


def _timezone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"there is no time zone {name!r}{hint(name, near(name, available_timezones()))}")
    return name


def _window(text: str) -> str:
    hours_of(text)
    return text


def _engine(name: str) -> str:
    if name not in ENGINES:
        raise ValueError(f"engine {name!r} is unknown{hint(name, ENGINES)}")
    return name


class PolicyFile(EngineFloors, BaseModel):
    """`policy.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Literal[1] = Field(1, description="Version of this file's form")
    federations: list[Annotated[str, AfterValidator(_federation)]] = Field(
        description="Federations by id whose rounds are allowed; `own`: the one that the agent enrolled in, `*`: any"
    )
    recipes: list[Annotated[RecipeEntry, BeforeValidator(_plain_name)]] = Field(
        description="Recipes that may run: a name, or a mapping with name and digest"
    )
    datasets: dict[str, AllowedColumns] = Field(description="Per data set the columns that recipes may read")
    engines: list[Annotated[str, AfterValidator(_engine)]] = Field(description="Engines by which updates may be summed")
    kinds: list[Kind] = Field(list(ROUND_KINDS), description="Kinds of round that are allowed")
    min_cohort: int = Field(default=3, ge=1, description="Fewest sites in a sum")
    require_clip: bool = Field(False, description="Whether training must limit the norm of an update")
    statistics: StatisticsEntry = Field(StatisticsEntry(), description="What statistics jobs may ask")
    privacy: PrivacyEntry = Field(PrivacyEntry(), description="What noise rounds need, and what they may cost")
    site_metrics: SiteMetricsEntry | None = Field(
        default=None,
        description="Let jobs that ask for it (`evaluation.sites`) have this site's own metrics, in the clear. Without "
        "it they never leave the site",
    )
    consent: Literal["none", "new"] = Field(
        "none",
        description="`new`: a job that this policy allows waits until an owner approves it (`undersong consent`); "
        "agent.yaml must name the `owners`. `none`: it runs",
    )
    auto_approve: list[AutomaticApproval] = Field(
        [], description="With `consent: new`, jobs that need no approval: by the recipe's code, under a ceiling"
    )
    hours: list[Annotated[str, AfterValidator(_window)]] = Field(
        [], description="Times of day in which tasks are begun, as HH:MM-HH:MM; none: always"
    )
    timezone: Annotated[str, AfterValidator(_timezone)] = Field("UTC", description="Time zone of `hours` (IANA name)")
    resources: ResourcesEntry = Field(ResourcesEntry(), description="Limits of a recipe's process")
    reports: Detail = Field(
        Detail.LOCATION,
        description="How much of a recipe's failure the platform is told: the `code`, also the `location` in the code, "
        "or the `full` text",
    )

    @model_validator(mode="after")
    def _consent_is_asked(self) -> PolicyFile:
        digests = [each.digest or each.signer for each in self.auto_approve]
        if digests and self.consent == "none":
            raise ValueError("auto_approve means something only with `consent: new`")
        if len(set(digests)) != len(digests):
            raise ValueError("auto_approve: one digest or signer is there twice")
        return self


def hours_of(text: str) -> Hours:
    """Return the window that `HH:MM-HH:MM` is; ValueError."""
    start, dash, end = text.partition("-")
    if not dash:
        raise ValueError(f"{text!r} is not HH:MM-HH:MM")
    return Hours(_time(start), _time(end))


def _time(text: str) -> time:
    try:
        return datetime.strptime(text.strip(), "%H:%M").time()  # noqa: DTZ007 a time of day has no zone
    except ValueError:
        raise ValueError(f"{text!r} is not HH:MM") from None
