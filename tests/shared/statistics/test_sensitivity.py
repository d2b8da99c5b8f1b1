"""What one row can change of a private round's sums, and what its noise does to the answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.shared.statistics.counting import Rows, count
from undersong.shared.statistics.measures import (
    SALT,
    Asked,
    Axis,
    HistogramCounts,
    MeasureInvalid,
    Moments,
    Products,
    Ranges,
    Scaled,
    Table,
    Term,
)
from undersong.shared.statistics.queries import Contingency, Histogram, Moment, Quantiles
from undersong.shared.statistics.sensitivity import from_multiples, to_multiples, unit_of
from undersong.shared.statistics.session import QuerySession
from undersong.shared.statistics.steps import Setting
from undersong.shared.wire.profiles import Column

COLUMNS = (
    Column(name="age", type="number"),
    Column(name="height", type="number"),
    Column(name="sex", type="category", categories=("female", "male")),
)
MEASURES = (
    Moments(
        columns=(
            Scaled(column="age", centre=50.0, scale=50.0, low=0.0, high=100.0),
            Scaled(column="height", centre=0.0, scale=1.0, low=-3.0, high=2.0),
        )
    ),
    HistogramCounts(column="age", low=0.0, high=100.0, bins=5),
    Table(axes=(Axis(column="sex", texts=("female", "male")), Axis(column="age", edges=(0.0, 30.0, 60.0)))),
)
ASKED = Asked(measures=MEASURES, min_cell=5, min_sites=3, job_measures=("moments", "histogram", "table"))
VALUES = st.one_of(st.floats(-1e6, 1e6), st.floats(-5, 110), st.just(float("nan")))
ROW = st.tuples(VALUES, VALUES, st.sampled_from([0.0, 1.0, float("nan")]))


def sums_of(rows: list[tuple[float, float, float]], asked: Asked = ASKED) -> np.ndarray:
    """A site's sums, behind the salt."""
    held = Rows(COLUMNS, np.array(rows, np.float64).reshape(-1, 3))
    return np.concatenate([np.arange(SALT, dtype=np.float64), *(count(measure, held) for measure in asked.measures)])


@settings(max_examples=examples(200), deadline=None)
@given(rows=st.lists(ROW, max_size=20), row=ROW)
def test_one_row_more_or_less_moves_the_multiples_by_at_most_one(
    rows: list[tuple[float, float, float]], row: tuple[float, float, float]
) -> None:
    """The law on which every claim about private statistics rests."""
    moved = to_multiples(ASKED, sums_of([*rows, row])) - to_multiples(ASKED, sums_of(rows))
    assert np.linalg.norm(moved) <= 1 + 1e-9


def test_the_bound_is_reached() -> None:
    """It is no larger than it has to be: a row at the ends of both ranges, in a bin and in a cell."""
    one = to_multiples(ASKED, sums_of([(100.0, -3.0, 0.0)]))
    assert np.linalg.norm(one) == pytest.approx(1.0)


def test_multiples_come_back_as_sums_without_salt_and_sites() -> None:
    rows = [(40.0, 1.5, 0.0), (70.0, -1.0, 1.0), (20.0, 0.0, 1.0)]
    sums = sums_of(rows)
    back = from_multiples(ASKED, to_multiples(ASKED, sums))
    changed = np.flatnonzero(np.abs(back - sums) > 1e-9)
    assert (back[changed] == ASKED.min_sites).all()
    assert len(changed) <= SALT + 4, "the salt, and where sites are counted"


@pytest.mark.parametrize(
    "measure",
    [
        Ranges(columns=("age",)),
        Products(terms=(Term(column="age"),)),
        Moments(columns=(Scaled(column="age", low=0.0),)),
    ],
)
def test_what_nothing_bounds_has_no_unit(measure: Ranges | Products | Moments) -> None:
    with pytest.raises(MeasureInvalid):
        unit_of(measure, (measure,))


def test_answers_carry_the_noise_on_their_numbers() -> None:
    """Simulated: the errors that are told are those that are there."""
    queries = (
        Moment(query="variance", columns=("age",), ranges={"age": (0.0, 100.0)}),
        Histogram(query="histogram", column="age", range=(0.0, 100.0), bins=5),
        Contingency(query="contingency", columns=("sex",)),
        Quantiles(query="quantiles", column="age", range=(0.0, 100.0), depth=4),
    )
    setting = Setting({column.name: column for column in COLUMNS}, min_cell=5, min_sites=3, noisy=True)
    asked = QuerySession(queries, setting).asked
    assert asked is not None
    generator = np.random.default_rng(3)
    rows = [(float(age), 0.0, float(age > 50)) for age in generator.uniform(0, 100, 4000)]
    exact = to_multiples(asked, sums_of(rows, asked))
    means, variances, bins, told = [], [], [], None
    for _ in range(300):
        session = QuerySession(queries, setting)
        session.take(from_multiples(asked, exact + 2.0 * generator.normal(size=exact.size)).tolist(), noise=2.0)
        moment, histogram, table, quantiles = session.results
        assert session.asked is None, "one round, whatever is asked"
        means.append(moment.columns[0].mean)  # type: ignore[union-attr]
        variances.append(moment.columns[0].variance)  # type: ignore[union-attr]
        bins.append(histogram.counts)  # type: ignore[union-attr]
        assert table.noise is not None
        assert quantiles.noise is not None
        told = (moment.columns[0], histogram.noise)  # type: ignore[union-attr]
    assert told is not None
    assert np.std(means) == pytest.approx(told[0].mean_noise, rel=0.2)
    assert np.std(variances) == pytest.approx(told[0].variance_noise, rel=0.2)
    assert np.std(np.array(bins, float), axis=0).mean() == pytest.approx(told[1], rel=0.1)


def test_small_counts_of_noisy_answers_are_shown() -> None:
    queries = (Contingency(query="contingency", columns=("sex",)),)
    setting = Setting({column.name: column for column in COLUMNS}, min_cell=5, min_sites=3, noisy=True)
    session = QuerySession(queries, setting)
    assert session.asked is not None
    session.take([0.0] * SALT + [3.0, 20.0, 18.0, -2.0, 4.0], noise=1.0)
    assert session.results[0].cells == ((18.0,), (-2.0,), (4.0,))  # type: ignore[union-attr]
