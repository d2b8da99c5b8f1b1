"""A statistics job that is tried answers as its sites would: the measures of all rows, with the noise of the job."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from undersong.audit.trial_statistics import StatisticsTrial, try_statistics
from undersong.errors import UndersongError
from undersong.recipes.datasets import load_dataset, read_datasets
from undersong.shared.statistics.queries import QUERIES

pytestmark = pytest.mark.process
SITES = 3
BOUNDS = {"range": [-5, 5]}
EXACT: list[dict[str, Any]] = [
    {"query": "count", "columns": ["x0"]},
    {"query": "sum", "columns": ["x1"]},
    {"query": "mean", "columns": ["x0", "x1"]},
    {"query": "variance", "columns": ["x2"]},
    {"query": "histogram", "column": "x0", "bins": 8},
    {"query": "quantiles", "column": "x1", "probabilities": [0.5]},
    {"query": "contingency", "columns": ["sick"], "values": {"sick": [0, 1]}},
    {"query": "correlation", "columns": ["x0", "sick"]},
    {"query": "pca", "columns": ["x0", "sick"]},
    {"query": "regression", "target": "x3", "features": ["x0", "x1"]},
    {"query": "k_means", "columns": ["x0", "x1"], "clusters": 2, "iterations": 3},
    {"query": "logistic_regression", "target": "sick", "features": ["x2"]},
    {"query": "poisson_regression", "target": "sick", "features": ["x2"]},
    {"query": "cox_regression", "time": "x3", "event": "sick", "features": ["x2"]},
    {"query": "kaplan_meier", "time": "x3", "event": "sick", "until": 3.0},
]
NOISY: list[dict[str, Any]] = [
    {"query": "mean", "columns": ["x0"], "ranges": {"x0": [-5, 5]}},
    {"query": "variance", "columns": ["x2"], "ranges": {"x2": [-5, 5]}},
    {"query": "histogram", "column": "x0", "bins": 8, **BOUNDS},
    {"query": "quantiles", "column": "x1", "probabilities": [0.5], **BOUNDS},
    {"query": "contingency", "columns": ["sick"], "values": {"sick": [0, 1]}},
]


def job(queries: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {"name": "figures", "data": {"dataset": "ward"}, "queries": queries, **changes}


async def tried(document: dict[str, Any], declarations: Path, tmp_path: Path) -> StatisticsTrial:
    return await try_statistics(document, declarations, tmp_path / "trainer", lambda _: None)


async def test_every_query_is_answered_as_by_sites_with_these_rows(declarations: Path, tmp_path: Path) -> None:
    assert {query["query"] for query in EXACT} == set(QUERIES)
    told: list[float] = []
    made = await try_statistics(job(EXACT), declarations, tmp_path / "trainer", told.append)
    data = load_dataset(read_datasets(declarations)["ward"])
    x, sick = data.features, data.label
    assert (made.sites, made.rows, made.terms, told[-1]) == (SITES, len(x), None, 1.0)
    assert made.answers.state == "succeeded"
    assert made.answers.rounds >= 4
    found: dict[str, Any] = {result.query: result for result in made.answers.results}
    assert {result.status for result in found.values()} == {"ok"}
    assert found["count"].columns[0].known == SITES * len(x)
    assert found["sum"].columns[0].sum == pytest.approx(SITES * x[:, 1].sum())
    assert [column.mean for column in found["mean"].columns] == pytest.approx([x[:, 0].mean(), x[:, 1].mean()])
    assert found["variance"].columns[0].variance == pytest.approx(np.tile(x[:, 2], SITES).var(ddof=1))
    assert found["contingency"].total == SITES * len(x)
    assert found["contingency"].cells[1][0] == SITES * sick.sum()
    assert found["correlation"].matrix[0][1] == pytest.approx(np.corrcoef(x[:, 0], sick)[0, 1])
    assert found["regression"].rows == SITES * len(x)
    assert found["k_means"].rows == SITES * len(x)


@pytest.mark.parametrize(
    ("model", "engine", "draws"), [("distributed", "pairwise", 1), ("server", "twoserver", 2), ("local", "pairwise", 3)]
)
async def test_answers_have_the_noise_that_the_job_asks_for(
    declarations: Path, tmp_path: Path, model: str, engine: str, draws: int
) -> None:
    privacy = {"model": model, "epsilon": 1, "delta": 1e-4}
    made = await tried(job(NOISY, engine=engine, privacy=privacy), declarations, tmp_path)
    assert made.terms is not None
    assert made.terms.epsilon == pytest.approx(1, rel=1e-3)
    whole = SITES * len(load_dataset(read_datasets(declarations)["ward"]).features)
    found: dict[str, Any] = {result.query: result for result in made.answers.results}
    assert {result.status for result in found.values()} == {"ok"}
    table = found["contingency"]
    unit = made.terms.noise_multiplier * math.sqrt(2) * math.sqrt(len(NOISY))  # measures that share one round
    assert table.noise == pytest.approx(unit * math.sqrt(draws))
    assert abs(table.total - whole) < 40 * table.noise
    exact = load_dataset(read_datasets(declarations)["ward"]).features[:, 0].mean()
    assert found["mean"].columns[0].mean != pytest.approx(exact, rel=1e-12)
    assert abs(found["mean"].columns[0].known - whole) < 8 * found["mean"].columns[0].noise


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"queries": [{"query": "mean", "columns": ["x99"]}]}, "/queries/0/columns/0: no site's data set 'ward' has"),
        ({"queries": [{"query": "median", "columns": ["x0"]}]}, "/queries/0/query: there is no query 'median'"),
        ({"queries": []}, "/queries: a list of 1 to 50"),
        ({"privacy": {"model": "distributed", "epsilon": 0, "delta": 1e-6}}, "/privacy/epsilon"),
        ({"privacy": {"model": "distributed", "epsilon": 1, "delta": 0.1}}, "/privacy/delta"),
        ({"privacy": {"model": "server", "epsilon": 1, "delta": 1e-6}}, "/privacy/model"),
        ({"cohort": {"min": 1}}, "/cohort/min"),
        ({"cohort": 3}, "/cohort"),
        ({"rounds": 3}, "/rounds"),
        ({"name": ""}, "/name"),
    ],
)
async def test_a_job_that_sites_would_never_get_is_refused_with_every_fault(
    declarations: Path, tmp_path: Path, changes: dict[str, Any], path: str
) -> None:
    with pytest.raises(UndersongError) as refused:
        await tried(job(NOISY) | changes, declarations, tmp_path)
    assert any(note.startswith(path) for note in refused.value.__notes__), refused.value.__notes__
    assert refused.value.remedy


async def test_rows_that_cannot_be_read_are_said_with_their_place(declarations: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(rows.read_text().replace(",1\n", ",ill\n", 1))
    with pytest.raises(UndersongError, match="sick"):
        await tried(job(EXACT), declarations, tmp_path)
    with pytest.raises(UndersongError, match="declares no data set wart"):
        await tried(job(EXACT, data={"dataset": "wart"}), declarations, tmp_path)
