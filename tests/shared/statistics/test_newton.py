"""Fitted models equal those of all rows in one place, by optimisers and formulas that share no code with ours."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression, PoissonRegressor

from tests.shared.statistics.hospitals import SITES, federate, frame, hospital, rows_of

RECORDS = frame()
HOSPITALS = [hospital(name) for name in SITES]
CORNERS = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))  # of a second difference
FEATURES = ["age", "trestbps", "thalach", "sex", "cp"]


def answer(query: dict[str, Any], **rules: int) -> Any:
    return federate(HOSPITALS, query, **rules)[0]


def design_of(records: pd.DataFrame) -> np.ndarray:
    plain = [records.age, records.trestbps, records.thalach, records.sex]
    return np.column_stack([*plain, *(records.cp == c for c in (2, 3, 4))]).astype(float)


def patients(seed: int = 0, sites: int = 4) -> pd.DataFrame:
    """Survival times in whole months, many of them tied, with a baseline hazard of each site's own."""
    random = np.random.default_rng(seed)
    made = []
    for site in range(sites):
        n = int(random.integers(60, 200))
        age, dose = random.normal(60, 10, n), random.normal(size=n)
        arm = random.choice(["control", "treated"], n)
        rate = 0.03 * (1 + site) * np.exp(0.04 * (age - 60) - 0.5 * dose - 0.7 * (arm == "treated"))
        event, end = random.exponential(1 / rate), random.uniform(5, 60, n)
        time = np.ceil(np.minimum(event, end))
        made.append(pd.DataFrame({"site": site, "age": age, "dose": dose, "arm": arm, "time": time,
                                  "event": (event <= end).astype(float)}))  # fmt: skip
    return pd.concat(made, ignore_index=True)


def efron(records: pd.DataFrame, x: np.ndarray, b: np.ndarray) -> float:
    """The stratified partial log-likelihood, as it is written in the books: one event, one risk set at a time."""
    total = 0.0
    for _, rows in records.groupby("site"):
        eta = x[rows.index] @ b
        time, event = rows.time.to_numpy(), rows.event.to_numpy() > 0
        for at in np.unique(time[event]):
            risk, dead = np.exp(eta[time >= at]).sum(), (time == at) & event
            total += eta[dead].sum()
            for place in range(int(dead.sum())):
                total -= np.log(risk - place / dead.sum() * np.exp(eta[dead]).sum())
    return total


def test_a_logistic_regression_is_that_of_all_rows() -> None:
    found = answer({"query": "logistic_regression", "target": "target", "features": FEATURES})
    complete = RECORDS[[*FEATURES, "target"]].dropna()
    x = design_of(complete)
    scale = x.std(axis=0)
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(x / scale, complete.target)
    assert [term.value for term in found.terms] == pytest.approx(
        [model.intercept_[0], *(model.coef_[0] / scale)], rel=1e-5, abs=1e-7
    )
    share = model.predict_proba(x / scale)[:, 1]
    wide = np.column_stack([np.ones(len(x)), x])
    errors = np.sqrt(np.diag(np.linalg.inv(wide.T @ (wide * (share * (1 - share))[:, None]))))
    assert [term.error for term in found.terms] == pytest.approx(errors.tolist(), rel=1e-5)
    y = complete.target.to_numpy()
    value = float(np.log(np.where(y > 0, share, 1 - share)).sum())
    null = len(y) * (y.mean() * np.log(y.mean()) + (1 - y.mean()) * np.log(1 - y.mean()))
    assert found.log_likelihood == pytest.approx(value)
    assert found.likelihood_ratio == pytest.approx(2 * (value - null))
    assert (found.rows, found.events, found.freedom) == (len(y), y.sum(), len(x[0]))


def test_a_ridge_is_that_of_scaled_columns() -> None:
    query = {"query": "logistic_regression", "target": "target", "features": ["age", "thalach"], "ridge": 0.01}
    found = answer(query)
    complete = RECORDS[["age", "thalach", "target"]].dropna()
    scale = RECORDS[["age", "thalach"]].std().to_numpy()
    x = complete[["age", "thalach"]].to_numpy() / scale
    model = LogisticRegression(C=1 / (0.01 * len(x)), tol=1e-12, max_iter=10_000).fit(x, complete.target)
    assert [term.value for term in found.terms[1:]] == pytest.approx((model.coef_[0] / scale).tolist(), rel=1e-5)
    assert all(term.error is None for term in found.terms)


@pytest.mark.parametrize("exposed", [False, True])
def test_a_poisson_regression_is_that_of_all_rows(exposed: bool) -> None:
    records = patients(3)
    random = np.random.default_rng(1)
    years = random.uniform(0.5, 8, len(records)) if exposed else np.ones(len(records))
    records["visits"] = random.poisson(years * np.exp(0.3 + 0.02 * (records.age - 60) + 0.4 * records.dose)).astype(
        float
    )
    records["years"] = years
    sites = [rows_of(part.drop(columns="site")) for _, part in records.groupby("site")]
    query = {"query": "poisson_regression", "target": "visits", "features": ["age", "dose"]}
    found: Any = federate(sites, query | ({"exposure": "years"} if exposed else {}))[0]
    x = records[["age", "dose"]].to_numpy()
    model = PoissonRegressor(alpha=0, tol=1e-12, max_iter=10_000)
    model.fit((x - x.mean(axis=0)) / x.std(axis=0), records.visits / years, sample_weight=years)
    assert [term.value for term in found.terms[1:]] == pytest.approx((model.coef_ / x.std(axis=0)).tolist(), rel=1e-4)
    mean = years * model.predict((x - x.mean(axis=0)) / x.std(axis=0))
    null = years * records.visits.sum() / years.sum()
    gain = (records.visits * np.log(mean / null) - mean + null).sum()
    assert found.likelihood_ratio == pytest.approx(2 * gain, rel=1e-6)


def test_a_cox_model_is_that_of_all_rows_stratified_by_site() -> None:
    records = patients()
    sites = [rows_of(part.drop(columns="site")) for _, part in records.groupby("site")]
    query = {"query": "cox_regression", "time": "time", "event": "event", "features": ["age", "dose", "arm"]}
    found: Any = federate(sites, query)[0]
    x = np.column_stack([(records.age - 60) / 10, records.dose, records.arm == "treated"]).astype(float)
    best = minimize(lambda b: -efron(records, x, b), np.zeros(3), method="BFGS", options={"gtol": 1e-7})
    scale = np.array([10.0, 1, 1])
    assert [term.value for term in found.terms] == pytest.approx((best.x / scale).tolist(), abs=1e-5)
    unit = 1e-3 * np.eye(3)
    curved = [[sum(sign * efron(records, x, best.x + a * up + b * right) for a, b, sign in CORNERS) for right in unit]
              for up in unit]  # fmt: skip
    errors = np.sqrt(np.diag(np.linalg.inv(-np.array(curved) / 4e-6))) / scale
    assert [term.error for term in found.terms] == pytest.approx(errors.tolist(), rel=1e-3)
    assert found.log_likelihood == pytest.approx(-best.fun, abs=1e-6)
    assert found.likelihood_ratio == pytest.approx(2 * (-best.fun - efron(records, x, np.zeros(3))), abs=1e-5)
    concordant = compared = 0.0
    for _, rows in records.groupby("site"):
        eta, time, event = x[rows.index] @ best.x, rows.time.to_numpy(), rows.event.to_numpy() > 0
        later = event[:, None] & ((time[None] > time[:, None]) | ((time[None] == time[:, None]) & ~event[None]))
        compared += later.sum()
        concordant += (later & (eta[:, None] > eta[None])).sum()
    assert found.concordance == pytest.approx(concordant / compared, abs=1e-4)


def test_responses_that_columns_tell_apart_perfectly_give_no_answer_without_a_ridge() -> None:
    records = patients()
    records["event"] = (records.dose > 0).astype(float)
    sites = [rows_of(part.drop(columns="site")) for _, part in records.groupby("site")]
    query = {"query": "logistic_regression", "target": "event", "features": ["dose", "age"]}
    found = federate(sites, query)[0]
    assert (found.status, "perfectly" in found.note) == ("unusable", True)
    assert federate(sites, query | {"ridge": 0.1})[0].status == "ok"


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"event": 0.0}, "unusable", "same"),
        ({"twin": "age"}, "unusable", "linear combinations"),
        ({"few": 3}, "withheld", "few rows"),
        ({"rare": 2}, "withheld", "fewer than 5 rows"),
    ],
)
def test_what_cannot_or_must_not_be_answered_says_why(change: dict[str, Any], status: str, said: str) -> None:
    records = patients()
    features = ["age", "dose", "arm"]
    match change:
        case {"event": value}:
            records["event"] = value
        case {"twin": name}:
            records["dose"] = 3 * records[name] + 1
        case {"few": count}:
            records["event"] = (np.arange(len(records)) < count).astype(float)
        case {"rare": count}:
            records.loc[: count - 1, "arm"] = "other"
            records.loc[records.index[-1], "arm"] = "other"
            said = "arm=other"
    sites = [rows_of(part.drop(columns="site")) for _, part in records.groupby("site")]
    if "rare" in change:
        sites = [rows_of(records.drop(columns="site"))] * 3
    found = federate(sites, {"query": "logistic_regression", "target": "event", "features": features}, min_cell=10)[0]
    assert found.status == status
    assert said in found.note


@pytest.mark.parametrize("size", [1e17, 1e160, 1e300])
def test_numbers_too_large_to_be_named_say_which_column(size: float) -> None:
    place = [column.name for column in HOSPITALS[0].columns].index("age")
    scale = np.ones(len(HOSPITALS[0].columns))
    scale[place] = size
    sites = [replace(site, values=site.values * scale) for site in HOSPITALS]
    with np.errstate(over="ignore"):
        found = federate(sites, {"query": "logistic_regression", "target": "target", "features": ["age"]})[0]
    assert found.status == "unusable"
    assert found.note.startswith("age holds numbers beyond 1e+15")
