"""`undersong stats`: flags become a job document, answers become tables and plots."""

import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.shared.statistics.hospitals import SITES, federate, hospital
from undersong.cli import figures, stats

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["mean", "age", "chol", "--range", "0", "500"],
         {"query": "mean", "columns": ["age", "chol"], "ranges": {"age": [0, 500], "chol": [0, 500]}}),
        (["histogram", "age", "--edges", "20,40,60"], {"query": "histogram", "column": "age", "edges": [20, 40, 60]}),
        (["quantiles", "age", "-p", "0.5", "--range", "0", "128"],
         {"query": "quantiles", "column": "age", "probabilities": [0.5], "range": [0, 128]}),
        (["contingency", "cp", "target", "--values", "target=0,1"],
         {"query": "contingency", "columns": ["cp", "target"], "values": {"target": [0, 1]}}),
        (["regression", "age", "sex", "--target", "chol", "--ridge", "0.5"],
         {"query": "regression", "features": ["age", "sex"], "target": "chol", "ridge": 0.5}),
        (["cox_regression", "age", "sex", "--time", "months", "--event", "died"],
         {"query": "cox_regression", "features": ["age", "sex"], "time": "months", "event": "died"}),
        (["poisson_regression", "age", "--target", "visits", "--exposure", "years"],
         {"query": "poisson_regression", "features": ["age"], "target": "visits", "exposure": "years"}),
        (["kaplan_meier", "months", "--event", "died", "--until", "60", "--steps", "60", "--group", "arm"],
         {"query": "kaplan_meier", "time": "months", "event": "died", "until": 60, "steps": 60, "group": "arm"}),
        (["k_means", "age", "chol", "-k", "4"], {"query": "k_means", "columns": ["age", "chol"], "clusters": 4}),
    ],
)  # fmt: skip
def test_flags_are_a_query(monkeypatch: pytest.MonkeyPatch, words: list[str], wanted: dict[str, Any]) -> None:
    from typer.testing import CliRunner

    sent: list[dict[str, Any]] = []

    class Stop(Exception):
        pass

    class Recorder:
        def __enter__(self) -> "Recorder":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit_job(self, spec: dict[str, Any], *, federation: str | None) -> None:
            assert federation == "heart"
            sent.append(json.loads(json.dumps(spec)))
            raise Stop

    monkeypatch.setattr(stats.common, "connect", lambda _: Recorder())
    flags = ["--dataset", "heart", "--min-cell", "7", "--min-sites", "4", "--federation", "heart"]
    done = CliRunner().invoke(stats.app, ["ask", *words, *flags])
    assert isinstance(done.exception, Stop), done.output
    (spec,) = sent
    assert spec["queries"] == [wanted]
    assert (spec["kind"], spec["min_cell"], spec["cohort"]) == ("statistics", 7, {"min": 4})


def test_every_answer_has_a_figure() -> None:
    rows = [hospital(name) for name in SITES]
    for site in rows[1:]:
        site.values[:, [column.name for column in site.columns].index("ca")] = np.nan
    found = federate(
        rows,
        {"query": "variance", "columns": ["age", "ca"]},
        {"query": "histogram", "column": "age", "edges": [20, 40, 60, 75, 80]},
        {"query": "quantiles", "column": "age", "range": [50, 90]},
        {"query": "contingency", "columns": ["cp", "target"], "values": {"target": [0, 1]}},
        {"query": "contingency", "columns": ["sex"]},
        {"query": "correlation", "columns": ["age", "thalach"]},
        {"query": "pca", "columns": ["age", "thalach"]},
        {"query": "regression", "target": "thalach", "features": ["age", "sex"]},
        {"query": "k_means", "columns": ["age", "thalach"], "iterations": 3},
        {"query": "correlation", "columns": ["ca", "age"]},
        min_cell=30,
    )
    console = Console(width=120, record=True, file=StringIO())
    for result in found:
        figures.show(result, console)
    printed = console.export_text()
    for expected in (
        "hidden",
        "█",
        "392",
        "out of range",
        "sex=1",
        "-0.",
        "withheld",
        "fewer than",
        "share of variance",
    ):
        assert expected in printed, expected
