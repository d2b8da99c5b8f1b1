"""A twin of an owner's data that has the shares of the real columns, with noise, charged to the owner's ledger.

One round of statistics of one site: the agent's policy and ledger decide on it, the recipe adds up in its confined
child, the agent's code adds the site's own noise (model `local`), and what follows is computed from noisy sums alone.
The charge is final, and durable, before a row is added up: a twin that was never written is paid for, and none is
written that was not.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.audit.trainer import Trainer, declared
from undersong.errors import UndersongError
from undersong.recipes.catalogue import load_recipe
from undersong.recipes.datasets import BadDataset, DatasetEntry, describe_dataset
from undersong.recipes.mock import MockColumn, MockDescription, describe_entry, with_ranges
from undersong.services.agent.domain.budgets import PrivacyRule
from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.ledger.book import Ledger
from undersong.services.agent.rounds.updates import sums_to_hide
from undersong.services.agent.runner.protocol import Progress
from undersong.shared.errors import Refusal
from undersong.shared.ids import FederationId, JobId, RoundId, SiteId, new_id
from undersong.shared.privacy.accounting import epsilon_of, noise_for
from undersong.shared.secagg.engines import PUBLIC_ENGINE
from undersong.shared.secagg.payload import opened_sums
from undersong.shared.secagg.private import event_of, expected_event, plan_multiples
from undersong.shared.secagg.quantise import unpack
from undersong.shared.statistics.measures import Asked, Axis, HistogramCounts, Measure, Table
from undersong.shared.statistics.sensitivity import from_multiples
from undersong.shared.wire.manifest import (
    STATISTICS_RECIPE,
    DataRef,
    RecipeRef,
    RoundKind,
    RoundManifest,
    StrategyRef,
)
from undersong.shared.wire.privacy import PrivacyModel, PrivacyTerms, PrivacyUnit
from undersong.shared.wire.profiles import Column

BINS: Final = 16
MOST_MEASURES: Final = 200
"""Columns beyond these are drawn as declared: one round asks no more."""
DELTA: Final = 1e-6
REASON: Final = "statistics of a mock twin"
_HEAD: Final = {HistogramCounts: 5, Table: 2}  # sums of a measure before its counts
_DIGITS: Final = 4
_OWN: Final = "own"
_DEADLINE_S: Final = 3600.0
Ends = Mapping[str, tuple[float | None, float | None]]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NoisedTwin:
    """What is drawn, what it cost, and the columns of which nothing was asked because no range is declared."""

    description: MockDescription
    epsilon: float
    delta: float
    unasked: Sequence[str]


async def noised_twin(
    declarations: Path,
    ledger: Ledger,
    rule: PrivacyRule,
    dataset: str,
    epsilon: float,
    delta: float | None,
    rows: int,
    ranges: Mapping[str, tuple[float, float]],
    folder: Path,
    progress: Progress,
) -> NoisedTwin:
    """Charge the ledger, then describe a twin by noisy counts of the data; UndersongError, with nothing charged.

    `ranges`: ends of columns that the owner names beside those that are declared; values outside are not drawn.
    """
    entry = declared(declarations, dataset)
    budget = rule.budget(dataset, PrivacyUnit.RECORD)
    chosen = delta or (budget.delta if budget is not None else DELTA)
    try:
        base, schema = with_ranges(describe_entry(entry, rows), ranges), describe_dataset(entry)
        asked = _asked(entry, base, {**entry.ranges, **ranges}, {column.name: column for column in schema.columns})
        if schema.rows and chosen >= 1 / schema.rows:
            raise UndersongError(
                f"delta {chosen:g} is not less than 1 / {schema.rows} rows: one row could be told whole",
                remedy="give a smaller --delta",
            )
        manifest = _manifest(entry, asked, _terms(epsilon, chosen))
        event = event_of(manifest, asked.length)
        if event is None:
            raise TypeError("statistics with noise cost something")
        if refusals := rule.objections(manifest):
            raise UndersongError("; ".join(refusals), remedy="change the policy, if the owner agrees")
        ledger.spend(manifest, manifest.digest(), event, rule, REASON)
    except BadDataset as refusal:
        raise UndersongError(refusal.explain(), remedy="correct the file or its declaration") from None
    except (Refusal, TaskFailure) as refusal:
        said = refusal.detail if isinstance(refusal, Refusal) else str(refusal)
        raise UndersongError(
            said, remedy="undersong ledger show; less --epsilon, or a twin without statistics"
        ) from None
    sums = await _noisy_sums(manifest, asked, declarations, entry, folder, progress)
    unasked = [
        name
        for name, column in base.columns.items()
        if column.shape is None and name not in {_column_of(measure) for measure in asked.measures}
    ]
    return NoisedTwin(_described(base, asked, sums), epsilon, chosen, unasked)


def _asked(entry: DatasetEntry, base: MockDescription, ranges: Ends, told: Mapping[str, Column]) -> Asked:
    """Return the counts of each column that has bounds: categories, and parts of a declared range."""
    measures = tuple(
        measure
        for name, column in base.columns.items()
        if (measure := _measure(name, column, told[name], ranges.get(name, (None, None)))) is not None
    )
    if not measures:
        raise UndersongError(
            f"data set {entry.name} has no categories and no ranges, so nothing bounds what one row adds to a count",
            remedy="give the lowest and highest value of its columns: --range, or ranges in datasets.yaml",
        )
    measures = measures[:MOST_MEASURES]
    kinds = sorted({measure.measure for measure in measures})
    return Asked(measures=measures, min_cell=1, min_sites=1, job_measures=tuple(kinds))


def _measure(
    name: str, column: MockColumn, told: Column, ends: tuple[float | None, float | None]
) -> HistogramCounts | Table | None:
    if column.categories is not None:
        return Table(axes=(Axis(column=name, texts=column.categories),))
    if column.shape is not None:
        return None
    low, high = ends
    if low is None or high is None:
        if told.numbers != "binary":
            return None
        low, high = 0.0, 1.0  # the site tells that all are 0 or 1
    if low >= high:
        return None
    if (whole := _whole_ends(told, low, high)) is not None:
        edges = tuple(value - 0.5 for value in range(whole[0], whole[1] + 2))
        return HistogramCounts(column=name, edges=edges, bins=len(edges) - 1)
    return HistogramCounts(column=name, low=low, high=high, bins=BINS)


def _whole_ends(told: Column, low: float, high: float) -> tuple[int, int] | None:
    """Return the ends of a short range of whole numbers, each of which is counted by itself."""
    ends = math.ceil(low), math.floor(high)
    return ends if told.numbers in ("binary", "whole") and 0 <= ends[1] - ends[0] < BINS else None


def _terms(epsilon: float, delta: float) -> PrivacyTerms:
    noise = noise_for(epsilon, delta, 1)
    return PrivacyTerms(
        model=PrivacyModel.LOCAL,
        unit=PrivacyUnit.RECORD,
        noise_multiplier=noise,
        delta=delta,
        epsilon=epsilon_of([expected_event(PrivacyModel.LOCAL, noise)], delta),
        rounds=1,
        min_sites=1,
    )


def _manifest(entry: DatasetEntry, asked: Asked, terms: PrivacyTerms) -> RoundManifest:
    """Return the round of this one site, which no platform takes part in."""
    recipe = RecipeRef(
        name=STATISTICS_RECIPE,
        digest=load_recipe(STATISTICS_RECIPE).spec.digest,
        params=asked.model_dump(mode="json"),
    )
    return RoundManifest(
        federation_id=FederationId(_OWN),
        job_id=JobId(new_id("job")),
        round_id=RoundId(new_id("rnd")),
        number=0,
        attempt=1,
        kind=RoundKind.STATISTICS,
        engine=PUBLIC_ENGINE,
        recipe=recipe,
        data=DataRef(
            dataset=entry.name,
            features=tuple(sorted(asked.reads)),
            columns=tuple(entry.wire(column) for column in entry.columns if column.name in asked.reads),
        ),
        encoding=plan_multiples(summands=1, length=asked.length, terms=terms),
        cohort=(SiteId(_OWN),),
        min_cohort=1,
        target=1,
        strategy=StrategyRef(name="sum"),
        seed=0,
        deadline_s=_DEADLINE_S,
        length=asked.length,
        privacy=terms,
    )


async def _noisy_sums(
    manifest: RoundManifest, asked: Asked, declarations: Path, entry: DatasetEntry, folder: Path, progress: Progress
) -> Floats:
    files = () if entry.path is None else (entry.path,)
    async with Trainer(folder, declarations, files, manifest.recipe, manifest.data) as trainer:
        outcome = await trainer.statistics(manifest)
        try:
            payload = sums_to_hide(manifest, outcome)
            opened = opened_sums(manifest, unpack(payload.data, payload.modulus_bits).astype(np.uint64))
        except (Refusal, TaskFailure) as error:
            said = error.detail if isinstance(error, Refusal) else str(error)
            raise UndersongError(said, remedy="correct the data; the charge stays") from None
        finally:
            outcome.forget()
    progress(1.0)
    return from_multiples(asked, opened)


def _described(base: MockDescription, asked: Asked, sums: Floats) -> MockDescription:
    """Return the description with the shares that noisy sums tell."""
    columns = dict(base.columns)
    for measure, found in _parts(asked, sums):
        name = _column_of(measure)
        columns[name] = _weighted(columns[name], measure, found)
    return base.model_copy(update={"columns": columns})


def _parts(asked: Asked, sums: Floats) -> Iterator[tuple[HistogramCounts | Table, Floats]]:
    end = sums.size
    start = end - sum(measure.length for measure in asked.measures)
    for measure in asked.measures:
        if isinstance(measure, HistogramCounts | Table):
            yield measure, sums[start : start + measure.length]
        start += measure.length


def _weighted(column: MockColumn, measure: HistogramCounts | Table, sums: Floats) -> MockColumn:
    counts = np.maximum(sums[_HEAD[type(measure)] :], 0.0)
    if isinstance(measure, Table):
        counts, missing = counts[:-1], float(counts[-1])
    else:
        missing = max(0.0, float(sums[1] - sums[2]))
    known = float(counts.sum())
    if known <= 0:
        return column  # noise alone
    weights = [round(float(count / known), _DIGITS) for count in counts]
    made = column.model_dump() | {"weights": weights, "missing": round(min(0.99, missing / (known + missing)), _DIGITS)}
    if isinstance(measure, HistogramCounts):
        made |= (
            {"low": measure.edges[0] + 0.5, "high": measure.edges[-1] - 0.5, "whole": True}
            if measure.edges
            else {"low": measure.low, "high": measure.high}
        )
    return MockColumn.model_validate(made)


def _column_of(measure: Measure) -> str:
    return next(iter(measure.reads))
