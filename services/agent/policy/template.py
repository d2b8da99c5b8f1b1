"""The text of a first `policy.yaml`: what is safe for any site, and each weaker choice as a line to uncomment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from undersong.services.agent.domain.rules import OWN_FEDERATION, Detail
from undersong.services.agent.policy.entries import AllowedColumns, PolicyFile, RecipeEntry, StatisticsEntry
from undersong.shared.secagg.engines import ENGINES, EngineFloors
from undersong.shared.secagg.facts import EngineFacts
from undersong.shared.yaml_texts import dump_document

FLOORS: Final = EngineFloors()
HEADER: Final = """\
# What this site allows. What is not named here is refused, whatever the platform says.
# Lines that begin with "# -" or "# min_" are weaker choices that the owner may make: delete the "# " to allow one.
# federations: "own" is the federation this agent is enrolled in.
# recipes: by name (as installed) and, when `digest` is given, only with exactly that code; with `signer`, own recipes
#   that this key signed (undersong recipe sign).
# datasets: columns that recipes may read, the label among them ("*": all).
# reports: what the platform learns of a failure here: code | location | full (exception texts can quote data).
"""

KINDS: Final = """\
kinds:  # what rounds may ask of this site
- initialise  # make a first model, from the shape of the data only
- standardise  # sums by which a training job scales its columns: rows, mean, variance
- train
- evaluate
# - statistics  # jobs that ask for figures about the data; which ones, is said under statistics
"""

MIN_COHORT: Final = """\
min_cohort: {size}  # sums over fewer sites are never opened with this site's data
"""
SMALLER: Final = """\
# min_cohort: 2  # WEAKER, instead of the line above: with two sites, each can subtract itself from the sum
"""

STATISTICS: Final = """\
statistics:  # what jobs of kind statistics may add up, once kinds names them
  measures:
  - moments  # count, sum, mean, variance
  # - ranges  # the sizes of a column's values, roughly: histograms and quantiles whose range is not given
  # - histogram  # histograms and quantiles
  # - table  # counts for each combination of categories; Kaplan-Meier curves
  # - products  # correlation, principal components and regression
  # - clusters  # k-means
  # - likelihood  # logistic, Poisson and Cox regression
"""

PRIVACY: Final = """\
privacy:  # what noise rounds need, and what they may cost this site; `undersong ledger show` has what they did cost
  require: false  # true: rounds without noise are refused; otherwise their exact sums are charged as unbounded
  budgets: {}
  # budgets:  # instead of the line above: most epsilon within a period, for each data set
  #   NAME: {unit: site, epsilon: 8, delta: 1.0e-6, period_days: 365}
"""


CONSENT: Final = """\
consent: none  # new: each job that is allowed waits until an owner approves it; agent.yaml must name the owners
auto_approve: []
"""


def default_policy(
    recipes: Mapping[str, str], datasets: Mapping[str, Sequence[str]], *, min_cohort: int, reports: Detail
) -> str:
    """Return the text of a first policy: explicit about every recipe and column that is there today."""
    file = PolicyFile(
        federations=[OWN_FEDERATION],
        recipes=[RecipeEntry(name=name, digest=digest) for name, digest in sorted(recipes.items())],
        datasets={name: AllowedColumns(columns=list(columns)) for name, columns in sorted(datasets.items())},
        engines=[facts.name for facts in _offered() if not facts.sees_updates],
        kinds=["initialise", "standardise", "train", "evaluate"],
        min_cohort=min_cohort,
        statistics=StatisticsEntry(measures=["moments"]),
        reports=reports,
    )
    sections = {name: _section(name, value) for name, value in file.model_dump(mode="json").items()}
    sections["privacy"] = PRIVACY
    sections["consent"] = CONSENT
    del sections["auto_approve"]
    for name in EngineFloors.model_fields:
        sections["statistics"] += sections.pop(name)
    return HEADER + "".join(sections.values())


def _offered() -> list[EngineFacts]:
    """Return the facts of all engines, those first with which no service sees an update."""
    return sorted(ENGINES.values(), key=lambda facts: facts.sees_updates)


def _engines() -> str:
    """Return the section `engines`: who can see a single update, and the weak engines as lines to uncomment."""
    lines = [
        f"# - {facts.name}  # WEAK: {facts.wording.seen_by}"
        if facts.sees_updates
        else f"- {facts.name}  # {facts.wording.seen_by}"
        for facts in _offered()
    ]
    return "\n".join(["engines:  # who can see a single update of this site", *lines, ""])


def _section(name: str, value: Any) -> str:
    """Return one setting: as YAML writes it, or with the choices that the owner has."""
    if name == "engines":
        return _engines()
    if name == "kinds":
        return KINDS
    if name == "min_cohort":
        return MIN_COHORT.format(size=value) + (SMALLER if value > 2 else "")
    if (engine := FLOORS.section(name)) is not None:
        return engine.text()
    if name == "statistics":
        rest = _yaml({key: item for key, item in value.items() if key != "measures"})
        return STATISTICS + "".join(f"  {line}\n" for line in rest.splitlines())
    return _yaml({name: value})


def _yaml(document: Mapping[str, Any]) -> str:
    return dump_document(dict(document))
