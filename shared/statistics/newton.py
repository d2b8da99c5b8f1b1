"""Answers that Newton's method finds: logistic and Poisson regression, the Cox model; a round for each step."""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from undersong.shared.statistics import linear, measures, queries
from undersong.shared.statistics.models import check_groups, term_name, terms_for
from undersong.shared.statistics.results import Coefficient, FitResult
from undersong.shared.statistics.steps import Floats, Setting, Steps, Unusable, Withheld, standardised

SETTLED: Final = 1e-6
"""A step in standard errors at which the coefficients have come to rest: the next would be about its square."""
REACH: Final = 1.959963984540054
_SLACK: Final = 1e-9
_FAR: Final = 1e5
_FAMILIES: Final[dict[str, Literal["logistic", "poisson", "cox"]]] = {
    "logistic_regression": "logistic",
    "poisson_regression": "poisson",
    "cox_regression": "cox",
}


@dataclass(frozen=True, slots=True)
class _Point:
    """What a round opened at the coefficients `at` [k]; value, gradient and information are those with the penalty.

    `kept`: the places of the coefficients that can be estimated; gradient [m] and information [m, m] are theirs.
    """

    at: Floats
    kept: list[int]
    rows: float
    events: float
    plain: float
    value: float
    gradient: Floats
    information: Floats
    pairs: Floats


def fit(query: queries.Fit, setting: Setting) -> Steps[FitResult]:
    """Yield a round for the scale, then one for each step; raises `Withheld` and `Unusable`."""
    asked = yield from _first(query, setting)
    sums = yield asked
    kept = _estimable(query, asked, sums, setting)
    start = best = _point(asked, sums, kept, query.ridge)
    _check_independent(best, asked, query.ridge)
    move, steps = _move(best), 0
    while np.abs(move * np.sqrt(np.diag(best.information))).max() > SETTLED:
        if steps == query.iterations:
            raise _restless(steps)
        steps += 1
        asked = _asked_at(asked, best, move)
        tried = _point(asked, (yield asked), kept, query.ridge)
        if tried.value < best.value - _SLACK * abs(best.value):
            move = move / 2
        else:
            best, move = tried, _move(tried)
    if asked.family == "cox":
        last = asked.model_copy(update={"pairs": True, "coefficients": tuple(map(float, best.at))})
        best = _point(last, (yield last), kept, query.ridge)
    return _result(query, asked, start, best, steps)


def _first(query: queries.Fit, setting: Setting) -> Steps[measures.Likelihood]:
    """Yield the round for the scale, and return what the round at the first coefficients asks."""
    groups = {name: setting.columns[name].categories or () for name in query.features}
    cox = isinstance(query, queries.CoxRegression)
    response = query.event if isinstance(query, queries.CoxRegression) else query.target
    exposure = None if isinstance(query, queries.CoxRegression) else query.exposure
    plain = (*(name for name in query.features if not groups[name]), response, *([exposure] if exposure else []))
    scales = {one.column: one for one in (yield from standardised(plain, setting))}
    mean = scales[response].centre / (scales[exposure].centre if exposure else 1.0)
    family = _FAMILIES[query.query]
    if not cox and not 0 < mean < (1 if family == "logistic" else math.inf):
        raise Unusable(f"all values of {response} are the same, or they are no responses of a {query.query}")
    level = [] if cox else [math.log(mean / (1 - mean)) if family == "logistic" else math.log(mean)]
    terms = [term for name in query.features for term in terms_for(name, groups[name], scales)]
    return measures.Likelihood(
        family=family,
        terms=tuple(terms),
        response=measures.Term(column=response),
        time=query.time if isinstance(query, queries.CoxRegression) else None,
        exposure=exposure,
        coefficients=(*level, *(0.0 for _ in terms)),
    )


def _estimable(query: queries.Fit, asked: measures.Likelihood, sums: Floats, setting: Setting) -> list[int]:
    """Return the places of coefficients that have rows; raises `Withheld` where what is fitted would show rows."""
    sites, count, events = float(sums[0]), float(sums[2]), float(sums[3])
    setting.check(sites, count, "rows in which all columns are known")
    others = count - events if asked.family == "logistic" else math.inf
    if min(events, others) < setting.min_cell:
        raise Withheld(f"fewer than {setting.min_cell} rows have, or have not, the response {asked.response.column}")
    groups = {name: setting.columns[name].categories or () for name in query.features}
    terms = check_groups(list(asked.terms), groups, sums[5:], count, setting)
    kept = [*range(asked.intercepts), *(asked.intercepts + place for place in terms)]
    if count < len(kept) + setting.min_cell:
        raise Withheld(f"{len(kept)} coefficients from {round(count)} rows would show rows")
    return kept


def _point(asked: measures.Likelihood, sums: Floats, kept: list[int], ridge: float) -> _Point:
    at, terms = np.array(asked.coefficients), len(asked.terms)
    start = 5 + terms
    gradient = sums[start : start + at.size]
    upper = sums[start + at.size : -2]
    penalty = np.full(at.size, ridge * float(sums[2]))
    penalty[: asked.intercepts] = 0.0
    information = linear.square_of(upper, at.size) + np.diag(penalty)
    return _Point(
        at=at,
        kept=kept,
        rows=float(sums[2]),
        events=float(sums[3]),
        plain=float(sums[4]),
        value=float(sums[4] - penalty @ at**2 / 2),
        gradient=(gradient - penalty * at)[kept],
        information=information[np.ix_(kept, kept)],
        pairs=sums[-2:],
    )


def _check_independent(point: _Point, asked: measures.Likelihood, ridge: float) -> None:
    """Raise `Unusable` naming the columns whose terms are constant, or linear combinations of one another."""
    terms = point.information
    if asked.intercepts:
        terms = terms[1:, 1:] - np.outer(terms[0, 1:], terms[0, 1:]) / terms[0, 0]
    try:
        linear.check_independent(terms, ridge)
    except linear.Dependent as relation:
        names = [term_name(asked.terms[place - asked.intercepts]) for place in point.kept[asked.intercepts :]]
        said = ", ".join(names[place] for place in relation.places)
        raise Unusable(f"{said}: constant, or linear combinations of one another; leave some out") from relation


def _move(point: _Point) -> Floats:
    """Return Newton's step from here, float64[m]; raises `Unusable` where there is none."""
    try:
        move: Floats = np.linalg.solve(point.information, point.gradient).astype(np.float64)
    except np.linalg.LinAlgError:
        raise _restless(0) from None
    if not np.isfinite(move).all() or np.abs(move).max() > _FAR or (np.diag(point.information) <= 0).any():
        raise _restless(0)
    return move


def _restless(steps: int) -> Unusable:
    after = f" in {steps} steps" if steps else ""
    return Unusable(
        f"the coefficients do not come to rest{after}: some columns may tell the responses apart perfectly; "
        "leave them out, or give a ridge"
    )


def _asked_at(asked: measures.Likelihood, point: _Point, move: Floats) -> measures.Likelihood:
    at = point.at.copy()
    at[point.kept] += move
    if np.abs(at).max() > _FAR:
        raise _restless(0)
    return asked.model_copy(update={"coefficients": tuple(map(float, at))})


def _result(query: queries.Fit, asked: measures.Likelihood, start: _Point, best: _Point, steps: int) -> FitResult:
    kept = [place - asked.intercepts for place in best.kept[asked.intercepts :]]
    ratio = max(0.0, 2 * (best.plain - _null(asked, start)))
    compared = float(best.pairs[1])
    return FitResult(
        name=query.title,
        query=query.query,
        rows=float(round(best.rows)),
        events=float(round(best.events)),
        terms=_coefficients(asked, best, kept, errors=not query.ridge),
        log_likelihood=best.plain,
        likelihood_ratio=None if query.ridge else ratio,
        freedom=None if query.ridge else len(kept),
        concordance=float(best.pairs[0]) / compared if compared > 0 else None,
        steps=steps,
        note="" if len(kept) == len(asked.terms) else "categories without any row are left out",
    )


def _null(asked: measures.Likelihood, start: _Point) -> float:
    """Return the log-likelihood of the model without terms over the same rows, from that at the first coefficients."""
    if asked.family == "cox":
        return start.plain
    rows, events, level = start.rows, start.events, float(start.at[0])
    if asked.family == "logistic":
        return events * math.log(events / rows) + (rows - events) * math.log(1 - events / rows)
    exposure = (events * level - start.plain) / math.exp(level)
    return events * math.log(events / exposure) - events


def _coefficients(
    asked: measures.Likelihood, point: _Point, kept: list[int], *, errors: bool
) -> tuple[Coefficient, ...]:
    """Return the coefficients in the columns' own units."""
    terms = [asked.terms[place] for place in kept]
    own = np.diag([*[1.0] * asked.intercepts, *(1 / term.scale for term in terms)])
    if asked.intercepts:
        own[0, 1:] = [-term.centre / term.scale for term in terms]
    values = own @ point.at[point.kept]
    spread = np.sqrt(np.diag(own @ np.linalg.inv(point.information) @ own.T))
    names = [*["(intercept)"] * asked.intercepts, *map(term_name, terms)]
    if not errors:
        return tuple(Coefficient(term=name, value=float(value)) for name, value in zip(names, values, strict=True))
    return tuple(
        Coefficient(
            term=name, value=value, error=error, low=value - REACH * error, high=value + REACH * error,
            t=value / error, p=math.erfc(abs(value / error) / math.sqrt(2)),
        )
        for name, value, error in zip(names, values.tolist(), spread.tolist(), strict=True)
    )  # fmt: skip
