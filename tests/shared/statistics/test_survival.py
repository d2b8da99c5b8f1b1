"""Curves and tests of all rows in one place, by scipy."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import CensoredData, chi2, ecdf, logrank

from tests.shared.statistics.hospitals import federate, rows_of
from tests.shared.statistics.test_newton import patients
from undersong.shared.statistics.measures import MeasureInvalid
from undersong.shared.statistics.survival import chi_squared_tail

RECORDS = patients(5)
SITES = [rows_of(part.drop(columns="site")) for _, part in RECORDS.groupby("site")]
QUERY: dict[str, Any] = {"query": "kaplan_meier", "time": "time", "event": "event", "until": 60.0, "steps": 60}


def test_a_curve_is_that_of_all_rows_with_its_interval() -> None:
    found: Any = federate(SITES, QUERY)[0]
    (curve,) = found.curves
    wanted = ecdf(CensoredData.right_censored(RECORDS.time, RECORDS.event == 0)).sf
    reach = wanted.confidence_interval(method="log-log")
    places = np.searchsorted(wanted.quantiles, [point.time for point in curve.points], side="left") - 1
    assert len(curve.points) > 20
    for point, place in zip(curve.points, places, strict=True):
        if place < 0:
            assert point.survival == 1
            continue
        assert point.survival == pytest.approx(wanted.probabilities[place])
        assert point.low == pytest.approx(reach.low.probabilities[place])
        assert point.high == pytest.approx(reach.high.probabilities[place])
        assert point.at_risk == (RECORDS.time >= point.time).sum()
    half = wanted.quantiles[wanted.probabilities <= 0.5][0]
    assert curve.median[0] <= half < curve.median[1]


def test_points_are_shown_where_enough_happened_since_the_one_before() -> None:
    (curve,) = federate(SITES, QUERY, min_cell=12)[0].curves  # type: ignore[union-attr]
    before = 0.0
    for point in curve.points:
        came = RECORDS[(RECORDS.time >= before) & (RECORDS.time < point.time)].event
        assert point.events == came.sum()
        assert all(count == 0 or count >= 12 for count in (came.sum(), (1 - came).sum()))
        before = point.time
    assert curve.points[-1].at_risk == 0 or curve.points[-1].at_risk >= 12


def test_groups_have_curves_and_a_test_of_being_alike() -> None:
    found: Any = federate(SITES, QUERY | {"group": "arm"})[0]
    assert [curve.group for curve in found.curves] == ["control", "treated"]
    parts = [RECORDS[RECORDS.arm == name] for name in ("control", "treated")]
    assert [curve.rows for curve in found.curves] == [len(part) for part in parts]
    wanted = logrank(*(CensoredData.right_censored(part.time, part.event == 0) for part in parts))
    assert found.log_rank == pytest.approx(wanted.statistic**2)
    assert found.p == pytest.approx(wanted.pvalue)


def test_a_group_of_few_rows_has_no_curve_and_no_part_in_the_test() -> None:
    records = RECORDS.copy()
    records.loc[:3, "arm"] = "other"
    sites = [rows_of(records.drop(columns="site"))] * 2
    found: Any = federate(sites, QUERY | {"group": "arm"}, min_cell=20, min_sites=2)[0]
    (other,) = (curve for curve in found.curves if curve.group == "other")
    assert (other.rows, other.points, "fewer than 20" in other.note) == (None, (), True)
    assert found.log_rank is not None


def test_too_few_rows_are_withheld() -> None:
    assert federate(SITES, QUERY, min_cell=10**4)[0].status == "withheld"


def test_events_that_are_no_zeros_and_ones_are_refused() -> None:
    """As R writes them, 1 and 2: the ends of observation would be counted as events."""
    of_event = np.array([column.name for column in SITES[0].columns]) == "event"
    wrong = [replace(site, values=site.values + of_event) for site in SITES]
    with pytest.raises(MeasureInvalid, match="event holds values other than 0 and 1"):
        federate(wrong, QUERY)


@pytest.mark.parametrize(
    ("more", "fine"),
    [
        ({"steps": 10_000}, True),
        ({"until": 1e-290}, True),
        ({"until": 1e15}, False),
        ({"until": 5e-324}, False),
    ],
)
def test_any_grid_that_is_taken_can_be_counted(more: dict[str, float], fine: bool) -> None:
    if fine:
        assert federate(SITES, QUERY | more)[0].status == "ok"
        return
    with pytest.raises(ValidationError, match="use another unit"):
        federate(SITES, QUERY | more)


@pytest.mark.parametrize("freedom", range(1, 9))
def test_the_tail_of_chi_squared(freedom: int) -> None:
    for value in (0.0, 0.1, 1.0, 7.3, 30.0):
        assert chi_squared_tail(value, freedom) == pytest.approx(chi2.sf(value, freedom), rel=1e-12)
