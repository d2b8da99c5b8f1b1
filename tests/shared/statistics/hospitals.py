"""The example's real records, split over its four hospitals, and a federation that only adds up."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from undersong.recipes.datasets import load_dataset, read_datasets
from undersong.shared.statistics.counting import Rows, count
from undersong.shared.statistics.measures import SALT, asked_of
from undersong.shared.statistics.queries import QUERIES
from undersong.shared.statistics.results import Result
from undersong.shared.statistics.session import QuerySession
from undersong.shared.statistics.steps import Setting
from undersong.shared.wire.profiles import Column

FOLDER = Path(__file__).parents[3] / "examples" / "hospital"
SITES = ("cleveland", "hungarian", "switzerland", "va")


def frame() -> pd.DataFrame:
    records = pd.read_csv(FOLDER / "heart_disease.csv")
    records.loc[records.chol == 0, "chol"] = np.nan
    return records


def hospital(name: str) -> Rows:
    entry = read_datasets(FOLDER / "datasets" / f"{name}.yaml")["heart"]
    data = load_dataset(entry, [column.name for column in entry.columns], labelled=False)
    return Rows(data.columns, data.features)


def setting(sites: Sequence[Rows], min_cell: int = 5, min_sites: int = 3) -> Setting:
    columns: dict[str, Column] = {column.name: column for column in sites[0].columns}
    return Setting(columns, min_cell, min_sites)


def federate(sites: Sequence[Rows], *queries: dict[str, object], min_cell: int = 5, min_sites: int = 3) -> list[Result]:
    """What the platform would answer, were its sums exact."""
    asked = [QUERIES[str(query["query"])].model_validate(query) for query in queries]
    session = QuerySession(asked, setting(sites, min_cell, min_sites))
    history: list[list[float]] = []
    while (wanted := session.asked) is not None:
        request = asked_of(wanted.model_dump(mode="json"))
        parts = [np.concatenate([np.zeros(SALT), *(count(m, rows) for m in request.measures)]) for rows in sites]
        history.append(np.sum(parts, axis=0).tolist())
        session.take(history[-1])
    again = QuerySession(asked, setting(sites, min_cell, min_sites), history)
    assert again.results == session.results, "an answer is a function of what was opened"
    return list(session.results)


def rows_of(records: pd.DataFrame) -> Rows:
    """A site of number columns, and of category columns where the records hold texts."""
    columns, values = [], []
    for name in records.columns:
        if pd.api.types.is_numeric_dtype(records[name]):
            columns.append(Column(name=name, type="number"))
            values.append(records[name].to_numpy(float))
        else:
            texts = sorted(records[name].unique())
            columns.append(Column(name=name, type="category", categories=tuple(texts)))
            values.append(records[name].map(texts.index).to_numpy(float))
    return Rows(tuple(columns), np.column_stack(values))
