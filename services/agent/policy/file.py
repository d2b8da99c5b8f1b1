"""The owner's policy file: read, checked, and written once by `agent init`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from types import MappingProxyType
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from undersong.services.agent.domain.budgets import Budget, PrivacyRule
from undersong.services.agent.domain.rules import (
    EVERYTHING,
    POLICY_UNREADABLE,
    Ceiling,
    ConsentRule,
    Policy,
    RecipeRule,
    Resources,
    SiteMetricsRule,
    StatisticsRule,
)
from undersong.services.agent.policy.entries import (
    AutomaticApproval,
    PolicyFile,
    PrivacyEntry,
    RecipeEntry,
    StatisticsEntry,
    hours_of,
)
from undersong.services.agent.settings import ConfigError, explain
from undersong.shared.files import read_bytes
from undersong.shared.ids import Digest
from undersong.shared.names import Hints, hint, one_edit
from undersong.shared.secagg.engines import EngineFloors
from undersong.shared.wire.privacy import PrivacyModel
from undersong.shared.yaml_texts import NotYaml, load_document


class PolicyError(ConfigError):
    """The policy cannot be used: the site does nothing until its owner corrects it."""

    code = POLICY_UNREADABLE


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
        hours=tuple(hours_of(text) for text in file.hours),
        resources=Resources(**file.resources.model_dump()),
        reports=file.reports,
        statistics=_statistics(file.statistics, file.min_cohort),
        engine_floors=EngineFloors(**{name: getattr(file, name) for name in EngineFloors.model_fields}),
        privacy=_privacy(file.privacy),
        site_metrics=SiteMetricsRule(**file.site_metrics.model_dump()) if file.site_metrics is not None else None,
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
