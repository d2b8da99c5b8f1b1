"""What a query reads, and how many rounds and sums it takes at most: known before any data are."""

from collections.abc import Mapping
from math import prod

from undersong.shared.statistics.measures import MAGNITUDES
from undersong.shared.statistics.queries import (
    Contingency,
    Correlation,
    CoxRegression,
    Fit,
    GeneralisedRegression,
    Histogram,
    KaplanMeier,
    KMeans,
    Linear,
    Moment,
    PrincipalComponents,
    Quantiles,
    Query,
)


def reads(query: Query) -> tuple[str, ...]:
    """Return the columns that a query reads."""
    return (*query.numbers, *query.either, *query.categories)


def most_rounds(query: Query) -> int:
    """Return how many rounds it takes at most."""
    if isinstance(query, KMeans):
        return 1 + query.iterations
    if isinstance(query, GeneralisedRegression | CoxRegression):
        return 3 + query.iterations
    if isinstance(query, Histogram):
        return 1 if query.range is not None or query.edges is not None else 2
    if isinstance(query, Quantiles):
        return 1 if query.range is not None else 2
    if isinstance(query, Moment):
        return 2 if query.query == "variance" else 1
    return 1 if isinstance(query, Contingency | KaplanMeier) else 2


def most_sums(query: Query, places: Mapping[str, int]) -> int:
    """Return how many sums its largest round has; `places` counts a column's categories, 1 for a number."""
    if isinstance(query, Moment | Histogram | Quantiles):
        if isinstance(query, Moment):
            return 1 + 5 * len(query.columns)
        leaves = 2**query.depth if isinstance(query, Quantiles) else len(query.edges or range(query.bins + 1)) - 1
        return max(5 + leaves, 2 + MAGNITUDES)
    if isinstance(query, Contingency):
        sizes = [len(query.values.get(name, query.edges.get(name, range(places[name])))) + 1 for name in query.columns]
        return 2 + prod(sizes)
    if isinstance(query, KaplanMeier):
        return 2 + (query.steps + 2) * 3 * (1 + places[query.group] if query.group is not None else 1)
    if isinstance(query, GeneralisedRegression | CoxRegression):
        terms = terms_of(query, places)  # the intercept in place of the target
        return 7 + 2 * terms + terms * (terms + 1) // 2
    if isinstance(query, KMeans):
        return 3 + query.starts * query.clusters * (len(query.columns) + 2)
    terms = terms_of(query, places)
    return 3 + terms + terms * (terms + 1) // 2


def terms_of(query: Linear | Fit, places: Mapping[str, int]) -> int:
    """Return how many terms a linear model has, the target among them."""
    if isinstance(query, Correlation | PrincipalComponents):
        return len(query.columns)
    return 1 + sum(max(1, places[name] - 1) for name in query.features)
