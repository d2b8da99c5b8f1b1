"""Answers that are models: correlation, principal components, linear regression, k-means."""

from collections.abc import Sequence

import numpy as np

from undersong.shared.statistics import clusters, linear, measures, queries
from undersong.shared.statistics.results import (
    Cluster,
    Coefficient,
    CorrelationResult,
    KMeansResult,
    PrincipalComponent,
    PrincipalComponentsResult,
    RegressionResult,
)
from undersong.shared.statistics.steps import Floats, Setting, Steps, Unusable, Withheld, standardised
from undersong.shared.statistics.suppression import hidden_counts

SETTLED = 1e-4  # of a deviation: a centre that moves less has come to rest


def correlation(query: queries.Correlation, setting: Setting) -> Steps[CorrelationResult]:
    """Yield two rounds: scale, then products of scaled columns."""
    _, count, sums, products = yield from _products(query.columns, setting)
    matrix = linear.correlation(count, sums, products)
    shown = tuple(tuple(float(r) if np.isfinite(r) else None for r in row) for row in matrix)
    return CorrelationResult(name=query.title, columns=query.columns, rows=float(round(count)), matrix=shown)


def principal_components(query: queries.PrincipalComponents, setting: Setting) -> Steps[PrincipalComponentsResult]:
    """Yield two rounds: scale, then products of scaled columns; raises `Unusable` where a column does not vary."""
    terms, count, sums, products = yield from _products(query.columns, setting)
    matrix = linear.correlation(count, sums, products)
    still = [name for name, own in zip(query.columns, np.diag(matrix), strict=True) if not np.isfinite(own)]
    if still:
        raise Unusable(f"{', '.join(still)}: the same value in all rows; leave it out")
    variances, vectors = linear.principal_axes(matrix)
    spread = np.sqrt(np.diag(linear.centred(count, sums, products)) / (count - 1))
    return PrincipalComponentsResult(
        name=query.title,
        columns=query.columns,
        rows=float(round(count)),
        means=tuple(float(t.centre + t.scale * s / count) for t, s in zip(terms, sums, strict=True)),
        deviations=tuple(float(t.scale * s) for t, s in zip(terms, spread, strict=True)),
        components=tuple(
            PrincipalComponent(
                variance=float(variances[at]),
                share=float(variances[at] / len(query.columns)),
                weights=tuple(map(float, vectors[:, at])),
            )
            for at in range(query.components)
        ),
    )


def _products(
    columns: tuple[str, ...], setting: Setting
) -> Steps[tuple[tuple[measures.Term, ...], float, Floats, Floats]]:
    """Yield the rounds of scale and products, and return terms, complete rows, sums [m] and products [m, m]."""
    scales = yield from standardised(columns, setting)
    asked = measures.Products(terms=tuple(term_of(one) for one in scales))
    sites, count, sums, products = _read(asked, (yield asked))
    setting.check(sites, count, "rows in which all columns are known")
    if count < 3:
        raise Withheld("fewer than 3 rows are complete")
    return asked.terms, count, sums, products


def regression(query: queries.Regression, setting: Setting) -> Steps[RegressionResult]:
    """Yield two rounds: scale, then the normal equations."""
    groups = {name: setting.columns[name].categories or () for name in query.features}
    plain = (*(name for name in query.features if not groups[name]), query.target)
    scales = {one.column: one for one in (yield from standardised(plain, setting))}
    terms = [term for name in query.features for term in terms_for(name, groups[name], scales)]
    asked = measures.Products(terms=(*terms, term_of(scales[query.target])))
    sites, count, sums, products = _read(asked, (yield asked))
    setting.check(sites, count, "rows in which all columns are known")
    kept = check_groups(terms, groups, sums, count, setting)
    if count < len(kept) + 1 + setting.min_cell:
        raise Withheld(f"{len(kept) + 1} coefficients from {round(count)} rows would show rows")
    places = [*kept, len(terms)]
    used = [asked.terms[place] for place in places]
    centre, scale = (np.array([getattr(term, part) for term in used]) for part in ("centre", "scale"))
    try:
        fit = linear.regression(count, sums[places], products[np.ix_(places, places)], centre, scale, query.ridge)
    except linear.Dependent as relation:
        names = ", ".join(term_name(used[place]) for place in relation.places)
        raise Unusable(f"{names}: constant, or linear combinations of one another; leave some out") from relation
    return RegressionResult(
        name=query.title,
        target=query.target,
        rows=float(round(count)),
        terms=_coefficients(fit, ["(intercept)", *map(term_name, used[:-1])]),
        r2=_finite(fit.r2),
        residual=_finite(fit.residual),
        note="" if len(kept) == len(terms) else "categories without any row are left out",
    )


def terms_for(name: str, texts: Sequence[str], scales: dict[str, measures.Scaled]) -> list[measures.Term]:
    """Return a feature's terms: itself, scaled, or an indicator for each category but the first."""
    if not texts:
        return [term_of(scales[name])]
    return [measures.Term(column=name, text=text) for text in texts[1:]]


def check_groups(
    terms: list[measures.Term], groups: dict[str, tuple[str, ...]], sums: Floats, count: float, setting: Setting
) -> list[int]:
    """Return the places of terms that can be estimated; raises `Withheld` where a category has few rows."""
    kept = []
    for place, term in enumerate(terms):
        if term.text is not None and round(sums[place]) == 0:
            continue
        kept.append(place)
    for name, texts in groups.items():
        sizes = [sums[place] for place, term in enumerate(terms) if term.column == name and term.text is not None]
        for text, size in zip(texts, [count - sum(sizes), *sizes], strict=False):
            if setting.shown(float(round(size))) is None:
                raise Withheld(f"{name}={text} has fewer than {setting.min_cell} rows; leave {name} out")
    return kept


def _coefficients(fit: linear.Fit, names: list[str]) -> tuple[Coefficient, ...]:
    made = []
    for place, name in enumerate(names):
        value = float(fit.coefficients[place])
        if fit.errors is None:
            made.append(Coefficient(term=name, value=value))
            continue
        error = float(fit.errors[place])
        reach = linear.t_quantile(fit.freedom) * error
        t = value / error if error > 0 else None
        made.append(Coefficient(term=name, value=value, error=error, low=value - reach, high=value + reach, t=t))
    return tuple(made)


def k_means(query: queries.KMeans, setting: Setting) -> Steps[KMeansResult]:
    """Yield a round for the scale, then one for each step of all starts; the best start is the answer."""
    scales = tuple((yield from standardised(query.columns, setting)))
    width = len(scales)
    starts = [clusters.first_centres(query.clusters, width, query.seed, start) for start in range(query.starts)]
    steps: list[clusters.ClusterSums] = []
    settled, turn, count = False, 0, 0.0
    while turn < query.iterations and not settled:
        sums = yield measures.Clusters(columns=scales, starts=tuple(_plain(start) for start in starts))
        setting.check(float(sums[0]), float(sums[2]), "rows in which all columns are known")
        count, turn = float(sums[2]), turn + 1
        steps = [clusters.unpack(part, query.clusters, width) for part in np.split(sums[3:], query.starts)]
        after = [
            clusters.moved(step, start, setting.min_cell, query.seed, turn)
            for step, start in zip(steps, starts, strict=True)
        ]
        settled = all(np.abs(new - old).max() < SETTLED for new, old in zip(after, starts, strict=True))
        starts = after
    best = min(steps, key=lambda step: step.inertia)
    return KMeansResult(
        name=query.title,
        columns=query.columns,
        rows=float(round(count)),
        steps=turn,
        settled=settled,
        inertia=best.inertia / count,
        clusters=_groups(best, scales, setting),
    )


def _groups(step: clusters.ClusterSums, scales: Sequence[measures.Scaled], setting: Setting) -> tuple[Cluster, ...]:
    hidden = hidden_counts(step.sizes, setting.min_cell)
    made = []
    for place in np.argsort(-step.sizes, kind="stable"):
        size = float(step.sizes[place])
        if hidden[place] or size == 0:
            made.append(Cluster(size=None if hidden[place] else 0.0))
            continue
        own = step.sums[place] / size
        centre = tuple(one.centre + one.scale * float(mean) for one, mean in zip(scales, own, strict=True))
        made.append(Cluster(size=float(round(size)), centre=centre))
    return tuple(made)


def _plain(centres: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, centre)) for centre in centres)


def term_of(one: measures.Scaled) -> measures.Term:
    """Return the term of a scaled column."""
    return measures.Term(column=one.column, centre=one.centre, scale=one.scale)


def term_name(term: measures.Term) -> str:
    """Return what a term is called in an answer."""
    return term.column if term.text is None else f"{term.column}={term.text}"


def _read(asked: measures.Products, sums: Floats) -> tuple[float, float, Floats, Floats]:
    count = len(asked.terms)
    upper = linear.square_of(sums[3 + count :], count)
    return float(sums[0]), float(sums[2]), sums[3 : 3 + count], upper


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
