"""Jobs whose recipe grows its model by rounds of sums: can they run?"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from undersong.services.coordinator.domain import parts
from undersong.services.coordinator.domain.findings import Findings
from undersong.shared.learning.strategies import STRATEGIES
from undersong.shared.statistics.growth import PARTS
from undersong.shared.statistics.tree_options import TreeOptions, TreesInvalid, options_of
from undersong.shared.wire.columns import Column

MOST_SUMS: Final = 1_000_000
"""Numbers of one level's sums: 16 MB of each site."""


def check_growth(
    parsed: Mapping[str, Any], params: Mapping[str, Any], columns: Sequence[Column], findings: Findings
) -> None:
    """Check the parts of a job whose model grows by rounds of sums; `columns` are the features, `params` fit."""
    try:
        options = options_of(params)
    except TreesInvalid as invalid:
        findings.error("/recipe/params", invalid.detail)
        return
    trees: int = parsed.get("rounds") or 0
    if fault := options.fault(trees):
        findings.error("/rounds", fault)
    _check_sums(options, columns, findings)
    if options.min_rows == 1:
        findings.warn("/recipe/params/min_rows", "a leaf of one row tells its label: it may be one person's")
    privacy: parts.PrivacyPart | None = parsed.get("privacy")
    if privacy is not None and privacy.noisy:
        said = "the sums that trees grow by are exact, and nothing adds noise to them yet: leave privacy out, or train"
        findings.error("/privacy/model", f"{said} recipe tabular with it")
    model: parts.ModelPart | None = parsed.get("model")
    if model is not None and model.version_id is not None:
        findings.error("/model/version_id", "trees do not go on from another version: leave it out")
    evaluation: parts.EvaluationPart | None = parsed.get("evaluation")
    if evaluation is not None and evaluation.early_stop is not None:
        findings.error("/evaluation/early_stop", "trees are evaluated once, when all have grown: leave it out")
    strategy: parts.StrategyPart | None = parsed.get("strategy")
    if strategy is not None and strategy.name != parts.StrategyPart().name:
        said = f"trees grow by sums, of which {strategy.name} makes nothing: leave strategy out"
        against = " (no rule against poisoned updates holds for them)" if _protects(strategy.name) else ""
        findings.error("/strategy/name", said + against)
    for name in ("strategy", "update"):
        part = parsed.get(name)
        if part is not None and part != type(part)():
            findings.warn(f"/{name}", "no updates are averaged where trees grow by sums: it is not used")


def _protects(strategy: str) -> bool:
    """Return whether a strategy is there against poisoned updates."""
    found = STRATEGIES.get(strategy)
    return found is not None and (found.rule is not None or found.rests_on_norms)


def _check_sums(options: TreeOptions, columns: Sequence[Column], findings: Findings) -> None:
    bins = sum(len(c.categories or ()) + 1 if c.type == "category" else options.bins + 1 for c in columns)
    widest = options.outputs * 2 ** (options.depth - 1) * bins * PARTS
    if widest > MOST_SUMS:
        said = f"a level of trees has up to {widest:,} sums, more than {MOST_SUMS:,}"
        findings.error("/recipe/params", f"{said}: ask for less depth, fewer bins or fewer columns")
