"""A policy in plain sentences: what it allows and what not, and what changes between two of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import gt, lt
from typing import Final

from undersong.services.agent.domain.budgets import MECHANISMS
from undersong.services.agent.domain.rules import EVERYTHING, OWN_FEDERATION, STANDARDISE, STATISTICS, Detail, Hours
from undersong.services.agent.policy.entries import (
    AutomaticApproval,
    BudgetEntry,
    PolicyFile,
    RecipeEntry,
    ResourcesEntry,
)
from undersong.services.agent.policy.file import to_policy
from undersong.shared.secagg.engines import ENGINES, EngineFloors
from undersong.shared.wire.privacy import PrivacyUnit

_KINDS: Final = {
    "initialise": "make a first model, from the shape of the data only",
    STANDARDISE: "add up rows, means and variances by which a training job scales its columns",
    STATISTICS: "add up figures about the data for statistics jobs",
    "train": "train a model on the data",
    "evaluate": "evaluate a model on the held-out rows",
}
_MEASURES: Final = {
    "moments": "counts, sums, means and variances",
    "ranges": "the rough sizes of a column's values",
    "histogram": "histograms and quantiles",
    "table": "counts for each combination of categories",
    "products": "correlation, principal components and regression",
    "clusters": "k-means",
    "likelihood": "logistic, Poisson and Cox regression",
}
_DETAILS: Final = {
    Detail.CODE: "of a recipe's failure the platform is told a code",
    Detail.LOCATION: "of a recipe's failure the platform is told the place in the code",
    Detail.FULL: "of a recipe's failure the platform is told the whole text, which can quote data",
}
_ANY: Final[Mapping[str, float]] = {"cpus": 0, "gpus": -1}
"""The value of a resource that sets no limit."""
_DAY: Final = 24 * 60


@dataclass(frozen=True, slots=True)
class Choices:
    """Things of one kind that are allowed, each with its phrase; `everything` is a phrase where all are."""

    allowed: Mapping[str, str]
    everything: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)  # known ones that are not allowed

    def beyond(self, other: Choices, covers: Callable[[str, Choices], bool]) -> list[str]:
        """Return the phrases of what these choices allow and the other ones do not."""
        if other.everything is not None:
            return []
        if self.everything is not None:
            but = f", not only {', '.join(sorted(other.allowed))}" if other.allowed else ""
            return [self.everything + but]
        return [phrase for key, phrase in self.allowed.items() if not covers(key, other)]


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that allows more where a number of its `leniency` is larger."""

    leniency: tuple[float, ...]
    phrase: str


Rule = Choices | Limit
_BY: Final = "by:"


def rules(file: PolicyFile) -> dict[str, Rule]:
    """Return a policy's rules, by the place in the file that they come from."""
    found: dict[str, Rule] = {
        "federations": _federations(file.federations),
        "recipes": Choices({_recipe_key(rule): _recipe(rule) for rule in file.recipes}),
        "datasets": Choices({name: f"data set {name} may be used" for name in file.datasets}),
    }
    for name, entry in file.datasets.items():
        columns = () if entry.columns == EVERYTHING else entry.columns
        found[f"datasets.{name}"] = Choices(
            {column: f"column {column} of {name} may be read" for column in columns},
            f"every column of {name} may be read" if entry.columns == EVERYTHING else None,
        )
    found["engines"] = _known({name: _engine(name) for name in ENGINES}, file.engines)
    found["kinds"] = _known({kind: f"rounds may {said}" for kind, said in _KINDS.items()}, _kinds(file))
    found["min_cohort"] = Limit((-file.min_cohort,), f"sums over {file.min_cohort} or more sites may be opened")
    clip = "training must limit the norm of an update" if file.require_clip else "training need not limit updates"
    found["require_clip"] = Limit((-int(file.require_clip),), clip)
    found |= _statistics(file)
    found |= _privacy(file)
    found["site_metrics"] = _site_metrics(file)
    found |= _consent(file)
    for section in EngineFloors.model_fields:
        found |= _floors(file, section)
    for name in ResourcesEntry.model_fields:
        value = getattr(file.resources, name)
        unlimited = name in _ANY and value == _ANY[name]
        said = f"a recipe's process may use {'all of' if unlimited else f'up to {value:,}'} {name}"
        found[f"resources.{name}"] = Limit((math.inf if unlimited else value,), said)
    found["reports"] = Limit((list(Detail).index(file.reports),), _DETAILS[file.reports])
    return found


def explain(file: PolicyFile) -> tuple[list[str], list[str]]:
    """Return sentences of what the policy allows, and of what it refuses among what is known."""
    allowed: list[str] = []
    refused: list[str] = []
    for rule in rules(file).values():
        if isinstance(rule, Limit):
            allowed.append(_sentence(rule.phrase))
            continue
        allowed += [_sentence(phrase) for phrase in ([rule.everything] if rule.everything else rule.allowed.values())]
        refused += [_sentence(f"not allowed: {phrase}") for phrase in rule.others.values()]
    allowed.append(_sentence(_hours_phrase(file)))
    refused.append("Whatever is not named as allowed is refused, whatever the platform says.")
    return allowed, refused


def diff(old: PolicyFile, new: PolicyFile) -> tuple[list[str], list[str]]:
    """Return sentences of what becomes allowed, and of what is no longer allowed."""
    more: list[str] = []
    less: list[str] = []
    before, after = rules(old), rules(new)
    for place in dict.fromkeys([*before, *after]):
        was, now = before.get(place, Choices({})), after.get(place, Choices({}))
        if isinstance(was, Limit) and isinstance(now, Limit):
            said = _sentence(f"{now.phrase} (before: {was.phrase})")
            more += [said] if any(map(gt, now.leniency, was.leniency)) else []
            less += [said] if any(map(lt, now.leniency, was.leniency)) else []
        elif isinstance(was, Choices) and isinstance(now, Choices):
            covers = _COVERS.get(place, _covered)
            more += [_sentence(phrase) for phrase in now.beyond(was, covers)]
            less += [_sentence(phrase) for phrase in was.beyond(now, covers)]
    gained, lost = _hours_changes(old, new)
    return more + gained, less + lost


def _sentence(phrase: str) -> str:
    return f"{phrase[:1].upper()}{phrase[1:]}."


def _covered(key: str, other: Choices) -> bool:
    return key in other.allowed


def _known(phrases: Mapping[str, str], allowed: Sequence[str]) -> Choices:
    """Return choices among what is known, each with its phrase."""
    chosen = {name: phrase for name, phrase in phrases.items() if name in allowed}
    return Choices(chosen, others={name: phrase for name, phrase in phrases.items() if name not in allowed})


def _federations(names: Sequence[str]) -> Choices:
    own = "rounds of the federation that the agent enrolled in are allowed"
    phrases = {
        name: own if name == OWN_FEDERATION else f"rounds of federation {name} are allowed"
        for name in names
        if name != EVERYTHING
    }
    return Choices(phrases, "rounds of every federation are allowed" if EVERYTHING in names else None)


def _recipe_key(rule: RecipeEntry) -> str:
    return f"{rule.name or ''} {_code(rule)}"


def _code(rule: RecipeEntry | AutomaticApproval) -> str:
    """Return what stands for the code that a rule allows: a digest, a signer, or nothing."""
    return _BY + rule.signer if rule.signer else rule.digest or ""


def _which(rule: AutomaticApproval) -> str:
    return f"recipes that the key {rule.signer} signed" if rule.signer else f"the recipe with the code {rule.digest}"


def _recipe(rule: RecipeEntry) -> str:
    if rule.signer is not None:
        which = f"recipe {rule.name}" if rule.name else "any recipe of the site"
        return f"{which} that the key {rule.signer} signed may run"
    if rule.digest is None:
        return f"recipe {rule.name} may run in any installed version"
    return f"{f'recipe {rule.name}' if rule.name else 'the recipe'} with the code {rule.digest} may run"


def _recipe_covered(key: str, other: Choices) -> bool:
    """Return whether another policy allows all that a rule allows: the same, the digest under any name, or any
    version.
    """
    name, code = key.split(" ")
    if key in other.allowed or (code and f" {code}" in other.allowed):
        return True
    return bool(code) and not code.startswith(_BY) and f"{name} " in other.allowed


def _ceiling_covered(key: str, other: Choices) -> bool:
    """Return whether another policy approves as much, or more, of the same recipe by itself."""
    digest, epsilon, delta = key.split(" ")
    ceilings = (each.split(" ") for each in other.allowed)
    return any(
        digest == its and float(most) >= float(epsilon) and float(largest) >= float(delta)
        for its, most, largest in ceilings
    )


_COVERS: Final = {"recipes": _recipe_covered, "auto_approve": _ceiling_covered}


def _engine(name: str) -> str:
    return f"updates may be summed by engine {name} (who sees a single one: {ENGINES[name].wording.seen_by})"


def _kinds(file: PolicyFile) -> list[str]:
    return [*file.kinds, *([STANDARDISE] if STATISTICS in file.kinds else [])]


def _statistics(file: PolicyFile) -> dict[str, Rule]:
    entry, effective = file.statistics, to_policy(file).statistics
    phrases = {name: f"statistics jobs may ask for {said}" for name, said in _MEASURES.items()}
    asked = list(_MEASURES) if entry.measures == EVERYTHING else list(entry.measures)
    return {
        "statistics.measures": _known(phrases, asked),
        "statistics.min_cell": Limit((-entry.min_cell,), f"statistics jobs may show counts from {entry.min_cell} on"),
        "statistics.min_cohort": Limit(
            (-effective.min_cohort,), f"statistics jobs may open sums over {effective.min_cohort} or more sites"
        ),
        "statistics.max_sums": Limit(
            (entry.max_sums,), f"a round of a statistics job may open up to {entry.max_sums} numbers"
        ),
    }


def _privacy(file: PolicyFile) -> dict[str, Rule]:
    entry = file.privacy
    exact = "refused" if entry.require else "allowed, and charged as unbounded"
    most, apart = entry.max_participations, entry.min_separation
    often = f"up to {most}" if most else "any number of"
    found: dict[str, Rule] = {
        "privacy.require": Limit((-int(entry.require),), f"rounds without noise are {exact}"),
        "privacy.mechanisms": _known(
            {str(model): f"rounds may have noise of the model {model}" for model in MECHANISMS}, entry.mechanisms
        ),
        "privacy.max_participations": Limit(
            (most or math.inf,),
            f"this site takes part in {often} rounds of a job",
        ),
        "privacy.min_separation": Limit(
            (-(apart or 0),), f"between two rounds of a job there are at least {apart or 1} by their numbers"
        ),
        "privacy.max_attempts": Limit(
            (entry.max_attempts,),
            f"this site answers up to {entry.max_attempts} attempts at one round with noise",
        ),
        "privacy.min_colluding": Limit(
            (-entry.min_colluding,),
            f"noise that sites add together is enough with {entry.min_colluding} sites that collude",
        ),
    }
    for name in dict.fromkeys([*file.datasets, *entry.budgets]):
        for unit in PrivacyUnit:
            found[f"privacy.budgets.{name}.{unit}"] = _budget(name, unit, entry.budgets.get(name))
    return found


def _site_metrics(file: PolicyFile) -> Limit:
    entry = file.site_metrics
    if entry is None:
        return Limit((0.0, -math.inf, -math.inf), "this site's own metrics never leave it")
    noise = f"with noise of {entry.noise:g}" if entry.noise else "without noise"
    told = f"jobs that ask are told this site's own metrics, of {entry.min_rows} or more test rows, {noise}"
    return Limit((1.0, -entry.min_rows, -entry.noise), told)


def _consent(file: PolicyFile) -> dict[str, Rule]:
    asked = file.consent != "none"
    said = "a job that is allowed waits for an owner's approval" if asked else "a job that is allowed needs no approval"
    found: dict[str, Rule] = {"consent": Limit((-int(asked),), said)}
    phrases = {
        f"{_code(each)} {each.epsilon!r} {each.delta!r}": f"jobs of {_which(each)} need no "
        f"approval up to epsilon {each.epsilon:g} at delta {each.delta:g}"
        for each in file.auto_approve
    }
    found["auto_approve"] = Choices(phrases)
    return found


def _budget(name: str, unit: PrivacyUnit, budgets: Sequence[BudgetEntry] | None) -> Limit:
    """Return the limit of one data set and unit: none where the data set has no budget at all."""
    if budgets is None:
        return Limit((math.inf, 1.0, 0.0), f"rounds with noise for each {unit} may cost data set {name} any epsilon")
    for each in budgets:
        if each.unit is unit:
            said = f"epsilon {each.epsilon:g} at delta {each.delta:g} in {each.period_days} days"
            return Limit(
                (each.epsilon, each.delta, -each.period_days),
                f"rounds with noise for each {unit} may cost data set {name} {said}",
            )
    return Limit((0.0, 0.0, -math.inf), f"rounds with noise for each {unit} may not use data set {name}")


def _floors(file: PolicyFile, engine: str) -> dict[str, Rule]:
    section = file.section(engine)
    if section is None:
        return {}
    values = section.model_dump(mode="json")
    return {
        f"{engine}.{name}": Limit((leniency,), f"{engine} rounds are planned with {name} {_plain(values[name])}")
        for name, leniency in section.leniency().items()
    }


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _hours_phrase(file: PolicyFile) -> str:
    if not file.hours:
        return "tasks may begin at any time of day"
    return f"tasks may begin from {', '.join(file.hours)} (time zone {file.timezone})"


def _hours_changes(old: PolicyFile, new: PolicyFile) -> tuple[list[str], list[str]]:
    """Return what the windows gain and lose; those of different time zones are compared as a whole."""
    if old.timezone != new.timezone and old.hours and new.hours:
        said = _sentence(f"{_hours_phrase(new)} (before: {_hours_phrase(old)})")
        return [said], [said]
    zone = new.timezone if new.hours else old.timezone
    was, now = _minutes(old), _minutes(new)
    return _begin(now - was, zone), _begin(was - now, zone)


def _begin(minutes: set[int], zone: str) -> list[str]:
    return [_sentence(f"tasks may begin from {', '.join(_windows(minutes))} (time zone {zone})")] if minutes else []


def _minutes(file: PolicyFile) -> set[int]:
    if not file.hours:
        return set(range(_DAY))
    windows: Sequence[Hours] = to_policy(file).hours
    found: set[int] = set()
    for window in windows:
        start, end = (at.hour * 60 + at.minute for at in (window.start, window.end))
        found |= set(range(start, end)) if start <= end else {*range(start, _DAY), *range(end)}
    return found


def _windows(minutes: set[int]) -> list[str]:
    """Return the runs of minutes as HH:MM-HH:MM."""
    starts = sorted(minute for minute in minutes if minute - 1 not in minutes)
    ends = sorted(minute + 1 for minute in minutes if minute + 1 not in minutes)
    return [f"{_clock(start)}-{_clock(end)}" for start, end in zip(starts, ends, strict=True)]


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
