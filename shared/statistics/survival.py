"""Kaplan-Meier curves and the log-rank test, from one table of events and ends of observation by time.

Sources: Kaplan & Meier, Nonparametric Estimation from Incomplete Observations (JASA 1958); variance by Greenwood
(1926), intervals on the scale of log(-log S) as in Kalbfleisch & Prentice, The Statistical Analysis of Failure Time
Data, 1.4; log-rank test by Mantel (1966), with its hypergeometric covariance.
Shapes: T intervals of time, the last without an end; events and ends float64[T], or [G, T] of G groups. In one interval
events come before ends of observation, as is usual for ties.
"""

import math

import numpy as np

from undersong.shared.statistics import measures, queries
from undersong.shared.statistics.newton import REACH
from undersong.shared.statistics.results import KaplanMeierResult, SurvivalCurve, SurvivalPoint
from undersong.shared.statistics.steps import Floats, Setting, Steps, Withheld


def kaplan_meier(query: queries.KaplanMeier, setting: Setting) -> Steps[KaplanMeierResult]:
    """Yield one round that counts events and ends of observation by interval; raises `Withheld`."""
    edges = np.linspace(0.0, query.until, query.steps + 1)
    groups = () if query.group is None else setting.columns[query.group].categories or ()
    axes = (
        *([measures.Axis(column=query.group, texts=groups)] if query.group is not None else []),
        measures.Axis(column=query.time, edges=(*edges.tolist(), queries.ENDLESS)),
        measures.Axis(column=query.event, values=(0.0, 1.0), complete=not setting.noisy),
    )
    asked = measures.Table(axes=axes)
    sums = yield asked
    cells = sums[2:].reshape(-1, *(axis.size for axis in axes[-2:]))[:, :-1, :-1]
    cells = cells[: len(groups)] if groups else cells
    setting.check(float(sums[0]), float(cells.sum()), "rows with a time and an event of 0 or 1")
    names = groups or (None,)
    curves = [_curve(name, table, edges[1:], setting) for name, table in zip(names, cells, strict=True)]
    if not any(curve.points for curve in curves):
        raise Withheld(f"no curve has {setting.min_cell} rows")
    shown = [place for place, curve in enumerate(curves) if curve.points]
    statistic, freedom = log_rank(cells[shown, :, 1], cells[shown, :, 0]) if len(shown) > 1 else (None, 0)
    others = setting.shown(float(sums[1] - cells.sum()))
    return KaplanMeierResult(
        name=query.title,
        until=query.until,
        curves=tuple(curves),
        log_rank=statistic,
        p=None if statistic is None else chi_squared_tail(statistic, freedom),
        note="" if others == 0 else f"rows left out, for want of a value: {'few' if others is None else round(others)}",
    )


def _curve(name: str | None, table: Floats, ends: Floats, setting: Setting) -> SurvivalCurve:
    """Return a group's curve; `table` is float64[T, 2], ends of observation and events."""
    rows, events = float(table.sum()), float(table[:, 1].sum())
    counts = (rows, events, rows - events)
    if rows < setting.min_cell or any(setting.shown(count) is None for count in counts):
        return SurvivalCurve(group=name, note=f"fewer than {setting.min_cell} rows, events or ends of observation")
    points = _points(table, ends, setting)
    before = np.array([0.0, *(point.time for point in points)])
    half = next((place for place, point in enumerate(points) if point.survival <= 0.5), None)
    median = None if half is None else (float(before[half]), float(before[half + 1]))
    return SurvivalCurve(group=name, rows=rows, events=events, median=median, points=tuple(points))


def _points(table: Floats, ends: Floats, setting: Setting) -> list[SurvivalPoint]:
    """Return the points between which no event, or enough of them, and no end or enough of them came."""
    survival, low, high = estimate(table[:, 1], table[:, 0])
    at_risk = table.sum() - np.cumsum(table.sum(axis=1))
    points: list[SurvivalPoint] = []
    last = -1
    for place, time in enumerate(ends):
        left, came = table[last + 1 : place + 1].sum(axis=0).tolist()
        if setting.shown(at_risk[place]) is None:
            break
        if setting.shown(left) is None or setting.shown(came) is None or (left == came == 0 and place < len(ends) - 1):
            continue
        last = place
        points.append(
            SurvivalPoint(
                time=float(time), survival=float(survival[place]), low=_finite(low[place]), high=_finite(high[place]),
                at_risk=float(round(at_risk[place])), events=float(round(came)),
            )
        )  # fmt: skip
    return points


def estimate(events: Floats, ends: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the share free of the event after each interval with its 95 % interval, float64[T] each.

    The interval is NaN before the first event, and where no row is left.
    """
    at_risk = (events + ends)[::-1].cumsum()[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        survival = np.cumprod(np.where(at_risk > 0, 1 - events / at_risk, 1.0)).astype(np.float64)
        spread = np.sqrt(np.cumsum(np.where(events > 0, events / (at_risk * (at_risk - events)), 0.0)))
        reach = REACH * spread / np.abs(np.log(survival))
        return survival, survival ** np.exp(reach), survival ** np.exp(-reach)


def log_rank(events: Floats, ends: Floats) -> tuple[float, int]:
    """Return the log-rank statistic of groups, float64[G, T] each, and its degrees of freedom."""
    at_risk = (events + ends)[:, ::-1].cumsum(axis=1)[:, ::-1]
    deaths, all_rows = events.sum(axis=0), at_risk.sum(axis=0)
    used = (deaths > 0) & (all_rows > 1)
    share = at_risk[:, used] / all_rows[used]
    surplus = (events[:, used] - deaths[used] * share).sum(axis=1)
    factor = deaths[used] * (all_rows[used] - deaths[used]) / (all_rows[used] - 1)
    covariance = np.diag((factor * share).sum(axis=1)) - (factor * share) @ share.T
    freedom = len(events) - 1
    statistic = surplus[:-1] @ np.linalg.pinv(covariance[:-1, :-1]) @ surplus[:-1]
    return float(statistic), freedom


def chi_squared_tail(value: float, freedom: int) -> float:
    """Return P(X > value) for X of the chi-squared law, as a finite sum.

    Source: Abramowitz & Stegun, Handbook of Mathematical Functions, 26.4.4 and 26.4.5.
    """
    half, odd = value / 2, freedom % 2
    terms = (half**power / math.gamma(power + 1) for power in (odd / 2 + place for place in range(freedom // 2)))
    return (math.erfc(math.sqrt(half)) if odd else 0.0) + math.exp(-half) * math.fsum(terms)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
