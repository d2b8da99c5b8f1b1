"""The owner's policy file: read, checked, and written once by `agent init`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, tzinfo
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from undersong.services.agent.domain.budgets import MAX_ATTEMPTS, MECHANISMS, Budget, PrivacyRule
from undersong.services.agent.domain.rules import (
    EVERYTHING,
    OWN_FEDERATION,
    POLICY_UNREADABLE,
    Ceiling,
    ConsentRule,
    Detail,
    Hours,
    Policy,
    RecipeRule,
    Resources,
    StatisticsRule,
)
from undersong.services.agent.settings import ConfigError, explain
from undersong.shared.files import read_bytes
from undersong.shared.ids import Digest
from undersong.shared.names import Hints, hint, near, one_edit
from undersong.shared.secagg.engines import ENGINES, EngineFloors
from undersong.shared.statistics.measures import Kind as MeasureKind
from undersong.shared.wire.privacy import MAX_EPSILON, MIN_DELTA, PrivacyModel, PrivacyUnit
from undersong.shared.yaml_texts import NotYaml, load_document

GIB = 2**30


class PolicyError(ConfigError):
    """The policy cannot be used: the site does nothing until its owner corrects it."""

    code = POLICY_UNREADABLE


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
    _hours(text)
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


def load(path: Path) -> tuple[Policy, tzinfo]:
    """Read the policy and the time zone of its hours; PolicyError names what is wrong."""
    file = parse(path, read(path))
    return to_policy(file), ZoneInfo(file.timezone)


def read(path: Path) -> bytes:
    """Return the bytes of the policy file; PolicyError where it cannot be read."""
    try:
        return read_bytes(path)
    except FileNotFoundError:
        raise PolicyError(
            f"{path}: no policy: put it back, or write a first one with "
            "`python -m undersong.services.agent --config … init`"
        ) from None
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error.strerror}") from error


def parse(path: Path, data: bytes) -> PolicyFile:
    """Return the policy that these bytes of the file at `path` are; PolicyError with one line per fault."""
    try:
        raw = load_document(data.decode())
        return PolicyFile.model_validate(raw if raw is not None else {})
    except NotYaml as error:
        raise PolicyError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        raise PolicyError(explain(path, error, PolicyFile)) from error
    except ValueError as error:
        raise PolicyError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class NameFault:
    """A name in the policy that refers to nothing at the site: in which section, which name, and what is wrong."""

    section: str
    name: str
    message: str

    @property
    def sentence(self) -> str:
        """The fault in one line."""
        return f"{self.section}: {self.message}"


def misspelt_digests(policy: Policy, recipes: Mapping[str, str]) -> list[NameFault]:
    """Return a fault for each recipe that the policy pins to a misspelt digest, or by a misspelt name.

    `recipes` holds the digests of installed recipes by name. Another digest may be that of code that was replaced: it
    allows nothing, and is no fault.
    """
    found = []
    for rule in policy.recipes:
        close = [digest for digest in recipes.values() if one_edit(rule.digest or "", digest)]
        if rule.digest is not None and rule.digest not in recipes.values() and close:
            said = f"no code has the digest {rule.digest}{hint(rule.digest, close)}"
            found.append(NameFault("recipes", rule.digest, said))
        if rule.name is not None and rule.name not in recipes and rule.digest in recipes.values():
            found.append(_no_recipe(rule.name, recipes))
    return found


def _no_recipe(name: str, recipes: Iterable[str]) -> NameFault:
    return NameFault("recipes", name, f"no recipe is called {name}{hint(name, recipes)}")


def unresolved(policy: Policy, declared: Mapping[str, Sequence[str]], recipes: Sequence[str]) -> list[NameFault]:
    """Return a fault for each data set, column and recipe that the policy names and the site does not have.

    `declared` holds the columns of each data set; none where its declaration has a fault that is told elsewhere.
    """
    found = []
    for name, columns in policy.datasets.items():
        if name not in declared:
            found.append(NameFault("datasets", name, f"no data set is called {name}{hint(name, declared)}"))
            continue
        known = declared[name]
        unknown = sorted(columns - {EVERYTHING, *known}) if known else []
        hints = Hints(known)
        found += [
            NameFault(f"datasets.{name}", column, f"there is no column {column}{hints(column)}") for column in unknown
        ]
    found += [
        NameFault("privacy.budgets", name, f"the policy allows no data set called {name}{hint(name, policy.datasets)}")
        for name in policy.privacy.budgets
        if name not in policy.datasets
    ]
    named = (rule.name for rule in policy.recipes if rule.name is not None and rule.digest is None)
    return found + [_no_recipe(name, recipes) for name in named if name not in recipes]


Signed = Mapping[str, Collection[Digest]]


def to_policy(file: PolicyFile, signed: Signed = MappingProxyType({})) -> Policy:
    """Turn the file's shape into the domain's; `signed` has the digests of own recipes by the keys that signed them."""
    return Policy(
        federations=frozenset(file.federations),
        recipes=tuple(RecipeRule(entry.name, digest) for entry in file.recipes for digest in _codes(entry, signed)),
        datasets={
            name: frozenset({EVERYTHING} if entry.columns == EVERYTHING else entry.columns)
            for name, entry in file.datasets.items()
        },
        engines=frozenset(file.engines),
        kinds=frozenset(file.kinds),
        min_cohort=file.min_cohort,
        require_clip=file.require_clip,
        hours=tuple(_hours(text) for text in file.hours),
        resources=Resources(**file.resources.model_dump()),
        reports=file.reports,
        statistics=_statistics(file.statistics, file.min_cohort),
        engine_floors=EngineFloors(**{name: getattr(file, name) for name in EngineFloors.model_fields}),
        privacy=_privacy(file.privacy),
        consent=ConsentRule(
            file.consent == "new",
            {
                digest: Ceiling(each.epsilon, each.delta)
                for each in sorted(file.auto_approve, key=lambda entry: entry.signer is None)  # a digest's own one last
                for digest in _codes(each, signed)
                if digest is not None
            },
        ),
    )


def _codes(entry: RecipeEntry | AutomaticApproval, signed: Signed) -> Collection[Digest | None]:
    """Return the digests that an entry stands for; None: any installed version of its name."""
    if entry.signer is not None:
        return signed.get(entry.signer, ())
    return (Digest(entry.digest) if entry.digest else None,)


def _privacy(entry: PrivacyEntry) -> PrivacyRule:
    return PrivacyRule(
        require=entry.require,
        mechanisms=frozenset(PrivacyModel(name) for name in entry.mechanisms),
        budgets={
            name: tuple(Budget(**budget.model_dump()) for budget in budgets) for name, budgets in entry.budgets.items()
        },
        max_participations=entry.max_participations,
        min_separation=entry.min_separation,
        max_attempts=entry.max_attempts,
        min_colluding=entry.min_colluding,
    )


def _statistics(entry: StatisticsEntry, min_cohort: int) -> StatisticsRule:
    return StatisticsRule(
        measures=frozenset({EVERYTHING} if entry.measures == EVERYTHING else entry.measures),
        min_cell=entry.min_cell,
        min_cohort=max(min_cohort, entry.min_cohort or 1),
        max_sums=entry.max_sums,
    )


def _hours(text: str) -> Hours:
    start, dash, end = text.partition("-")
    if not dash:
        raise ValueError(f"{text!r} is not HH:MM-HH:MM")
    return Hours(_time(start), _time(end))


def _time(text: str) -> time:
    try:
        return datetime.strptime(text.strip(), "%H:%M").time()  # noqa: DTZ007 a time of day has no zone
    except ValueError:
        raise ValueError(f"{text!r} is not HH:MM") from None
