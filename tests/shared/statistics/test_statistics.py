"""What the federation answers is what numpy, pandas, scipy and scikit-learn say of all rows in one place."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.linear_model import LinearRegression

from tests.shared.statistics.hospitals import SITES, federate, frame, hospital, rows_of
from undersong.shared.statistics import clusters
from undersong.shared.statistics.queries import PrincipalComponents

RECORDS = frame()
HOSPITALS = [hospital(name) for name in SITES]


def answer(query: dict[str, Any], **rules: int) -> Any:
    return federate(HOSPITALS, query, **rules)[0]


@pytest.mark.parametrize("query", ["count", "sum", "mean", "variance"])
def test_moments(query: str) -> None:
    names = ["age", "trestbps", "chol", "thalach", "oldpeak"]
    found = answer({"query": query, "columns": names, "ranges": {"age": [0, 120]}})
    for column in found.columns:
        values = RECORDS[column.column].dropna()
        wanted = {"count": len(values), "sum": values.sum(), "mean": values.mean(), "variance": values.var()}
        shown = column.known if query == "count" else getattr(column, query)
        assert shown == pytest.approx(wanted[query], rel=1e-9)
        assert (column.known, column.missing) == (len(values), RECORDS[column.column].isna().sum())


def test_values_outside_the_declared_range_are_left_out_and_counted() -> None:
    found = answer({"query": "mean", "columns": ["age"], "ranges": {"age": [40, 60]}}).columns[0]
    inside = RECORDS.age[RECORDS.age.between(40, 60)]
    assert found.mean == pytest.approx(inside.mean())
    assert found.outside == (~RECORDS.age.between(40, 60)).sum()


def test_a_histogram_over_edges_and_over_a_range_that_the_data_give() -> None:
    edges = [20, 40, 50, 55, 60, 80]
    found = answer({"query": "histogram", "column": "age", "edges": edges})
    assert list(found.counts) == np.histogram(RECORDS.age, edges)[0].tolist()
    found = answer({"query": "histogram", "column": "chol", "bins": 12})
    values = RECORDS.chol.dropna()
    counts = np.histogram(values, np.array(found.edges))[0]
    assert [shown for shown in found.counts if shown is not None] == [
        float(c) for c, s in zip(counts, found.counts, strict=True) if s is not None
    ]
    assert all(c >= 5 or c == 0 for c in found.counts if c is not None)
    assert sum(values < found.edges[0]) < 5
    assert sum(values > found.edges[-1]) < 5


def test_quantiles_lie_in_their_intervals() -> None:
    shares = [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95]
    for column in ("age", "chol", "oldpeak"):
        found = answer({"query": "quantiles", "column": column, "probabilities": shares})
        values = RECORDS[column].dropna()
        for one in found.values:
            exact = np.quantile(values, one.probability, method="inverted_cdf")
            assert one.low <= exact <= one.high
            assert ((values >= one.low) & (values <= one.high)).sum() >= 5


def test_a_contingency_table_with_its_hidden_cells() -> None:
    found = answer({"query": "contingency", "columns": ["cp", "target"], "values": {"target": [0, 1]}})
    wanted = pd.crosstab(RECORDS.cp, RECORDS.target).to_numpy()
    assert np.array(found.cells, float).tolist() == wanted.tolist()
    assert found.labels == (("1", "2", "3", "4"), ("0", "1"))
    assert list(found.row_totals) == wanted.sum(axis=1).tolist()
    coarse = answer({"query": "contingency", "columns": ["cp", "target"], "values": {"target": [0, 1]}}, min_cell=30)
    hidden = [cell for row in coarse.cells for cell in row if cell is None]
    assert len(hidden) >= 4
    assert "hidden" in coarse.note


def test_a_table_of_one_column_and_of_intervals() -> None:
    found = answer({"query": "contingency", "columns": ["age"], "edges": {"age": [20, 40, 60, 80]}})
    assert [row[0] for row in found.cells] == np.histogram(RECORDS.age, [20, 40, 60, 80])[0].tolist()


def test_correlations() -> None:
    names = ["age", "trestbps", "chol", "thalach"]
    found = answer({"query": "correlation", "columns": names})
    complete = RECORDS[names].dropna()
    assert found.rows == len(complete)
    assert np.allclose(np.array(found.matrix, float), np.corrcoef(complete.to_numpy().T), atol=1e-9)


def test_principal_components() -> None:
    names = ["age", "trestbps", "chol", "thalach"]
    found = answer({"query": "pca", "columns": names, "components": 3})
    complete = RECORDS[names].dropna()
    values = complete.to_numpy()
    assert found.rows == len(complete)
    assert found.means == pytest.approx(values.mean(axis=0))
    assert found.deviations == pytest.approx(values.std(axis=0, ddof=1))
    _, singular, axes = np.linalg.svd((values - values.mean(axis=0)) / values.std(axis=0, ddof=1), full_matrices=False)
    variances = singular**2 / (len(values) - 1)
    assert [one.variance for one in found.components] == pytest.approx(variances[:3].tolist())
    assert [one.share for one in found.components] == pytest.approx((variances / variances.sum())[:3].tolist())
    for one, axis in zip(found.components, axes, strict=False):
        assert abs(np.dot(one.weights, axis)) == pytest.approx(1.0)
        assert max(one.weights, key=abs) > 0


def test_principal_components_that_are_none_are_refused() -> None:
    for query in ({"components": 3}, {"columns": ["age", "age"]}, {"components": 0}):
        with pytest.raises(ValidationError):
            PrincipalComponents.model_validate({"query": "pca", "columns": ["age", "chol"], **query})
    rows = [rows_of(pd.DataFrame({"a": np.arange(9.0) + at, "still": np.full(9, 3.5)})) for at in range(3)]
    (found,) = federate(rows, {"query": "pca", "columns": ["a", "still"]})
    assert found.status == "unusable"
    assert "still" in found.note


def test_linear_regression_with_categories_and_its_errors() -> None:
    found = answer({"query": "regression", "target": "thalach", "features": ["age", "trestbps", "sex", "cp"]})
    complete = RECORDS[["thalach", "age", "trestbps", "sex", "cp"]].dropna()
    x = np.column_stack([complete.age, complete.trestbps, complete.sex, *(complete.cp == c for c in (2, 3, 4))])
    model = LinearRegression().fit(x, complete.thalach)
    by_name = {term.term: term for term in found.terms}
    names = ["age", "trestbps", "sex=1", "cp=2", "cp=3", "cp=4"]
    assert [by_name[name].value for name in names] == pytest.approx(model.coef_, rel=1e-7)
    assert by_name["(intercept)"].value == pytest.approx(model.intercept_, rel=1e-7)
    assert found.r2 == pytest.approx(model.score(x, complete.thalach), rel=1e-7)
    design = np.column_stack([np.ones(len(x)), x])
    left = complete.thalach - design @ np.linalg.lstsq(design, complete.thalach, rcond=None)[0]
    freedom = len(x) - design.shape[1]
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * (left @ left) / freedom)
    assert [term.error for term in found.terms] == pytest.approx(errors.tolist(), rel=1e-6)
    reach = [(t.high - t.low) / 2 / t.error for t in found.terms]
    assert reach == pytest.approx([stats.t.ppf(0.975, freedom)] * len(reach), abs=1e-3)


def test_columns_that_depend_on_one_another_are_named() -> None:
    rows = [hospital(name) for name in SITES]
    for site in rows:
        names = [column.name for column in site.columns]
        site.values[:, names.index("oldpeak")] = 2 * site.values[:, names.index("age")] - 3
    found = federate(rows, {"query": "regression", "target": "chol", "features": ["age", "oldpeak"]})[0]
    assert found.status == "unusable"
    assert "age" in found.note
    assert "oldpeak" in found.note
    ridge = federate(rows, {"query": "regression", "target": "chol", "features": ["age", "oldpeak"], "ridge": 0.1})[0]
    assert ridge.status == "ok"


def test_k_means_ends_where_scikit_learn_stays() -> None:
    names = ["age", "thalach", "trestbps"]
    found = answer({"query": "k_means", "columns": names, "clusters": 3, "iterations": 60})
    complete = RECORDS[names].dropna()
    mean, deviation = RECORDS[names].mean().to_numpy(), RECORDS[names].std().to_numpy()
    x = (complete.to_numpy() - mean) / deviation
    centres = (np.array([cluster.centre for cluster in found.clusters]) - mean) / deviation
    model = KMeans(3, init=centres, n_init=1, tol=0).fit(x)
    assert found.settled
    assert np.abs(model.cluster_centers_ - centres).max() < 0.02
    assert sum(cluster.size for cluster in found.clusters) == len(complete)
    best = KMeans(3, n_init=20, random_state=0).fit(x).inertia_
    assert found.inertia * len(x) <= 1.05 * best


def test_small_clusters_are_hidden_and_move_no_centre() -> None:
    values = np.concatenate([np.zeros((50, 1)), np.full((2, 1), 9.0)])
    centres = np.array([[0.1], [8.0]])
    step = clusters.step_of(values, centres)
    after = clusters.moved(step, centres, least=5, seed=0, turn=1)
    assert after[0, 0] == 0
    assert after[1, 0] != pytest.approx(9.0, abs=0.5)


def test_too_few_rows_or_sites_are_withheld_and_nothing_more_is_asked() -> None:
    found = federate(
        HOSPITALS[:2],
        {"query": "mean", "columns": ["age"]},
        {"query": "correlation", "columns": ["age", "chol"]},
        {"query": "histogram", "column": "age"},
        {"query": "k_means", "columns": ["age", "chol"]},
    )
    assert found[0].columns[0].withheld
    assert found[0].columns[0].mean is None
    assert [one.status for one in found[1:]] == ["withheld"] * 3
    assert all("3 sites" in one.note for one in found[1:])
    lone = federate(HOSPITALS, {"query": "mean", "columns": ["ca"]}, min_sites=4)[0]
    assert lone.columns[0].withheld == (sum(np.isfinite(h.numbers("ca")).any() for h in HOSPITALS) < 4)


def test_a_column_of_zeros_and_ones_with_few_ones_is_withheld() -> None:
    rows = [hospital(name) for name in SITES]
    for site in rows:
        place = [column.name for column in site.columns].index("target")
        site.values[:, place] = 0
        site.values[0, place] = 1
    assert federate(rows, {"query": "mean", "columns": ["target"]})[0].columns[0].withheld
    assert answer({"query": "mean", "columns": ["target"]}).columns[0].mean == pytest.approx(RECORDS.target.mean())


def test_a_category_of_few_rows_gets_no_coefficient() -> None:
    query = {"query": "regression", "target": "thalach", "features": ["age", "cp"]}
    assert answer(query, min_cell=60).status == "withheld"
    assert "cp=1" in answer(query, min_cell=60).note


def test_the_variance_of_large_values_close_together_takes_a_second_round() -> None:
    rows = [hospital(name) for name in SITES]
    for site in rows:
        place = [column.name for column in site.columns].index("age")
        site.values[:, place] += 1e8
    found = federate(rows, {"query": "variance", "columns": ["age"]})[0].columns[0]
    assert found.variance == pytest.approx(RECORDS.age.var(), rel=1e-6)


def test_sums_that_no_data_give_leave_the_job_with_an_unusable_answer() -> None:
    from tests.shared.statistics.hospitals import setting
    from undersong.shared.statistics.queries import QUERIES
    from undersong.shared.statistics.session import QuerySession, SumsMisfit

    queries = [
        QUERIES[str(document["query"])].model_validate(document)
        for document in (
            {"query": "correlation", "columns": ["age", "chol"]},
            {"query": "k_means", "columns": ["age", "chol"]},
            {"query": "regression", "target": "chol", "features": ["age"]},
            {"query": "variance", "columns": ["age"]},
        )
    ]
    random = np.random.default_rng(0)
    for _ in range(60):
        session = QuerySession(queries, setting(HOSPITALS))
        for _ in range(100):
            if session.asked is None:
                break
            session.take((random.normal(size=session.asked.length) * 10.0 ** random.integers(0, 17)).tolist())
        assert session.asked is None
        assert len(session.results) == len(queries)
    with pytest.raises(SumsMisfit):
        QuerySession(queries, setting(HOSPITALS), [[1.0, 2.0]])


def test_measures_that_two_queries_share_are_asked_once() -> None:
    from tests.shared.statistics.hospitals import setting
    from undersong.shared.statistics.queries import QUERIES
    from undersong.shared.statistics.session import QuerySession

    both = [QUERIES[name].model_validate({"query": name, "columns": ["age"]}) for name in ("mean", "sum")]
    asked = QuerySession(both, setting(HOSPITALS)).asked
    assert asked is not None
    assert len(asked.measures) == 1
