"""Grafana's dashboard and the records: every query runs on the platform's own metrics and finds something."""

import json
import re
from typing import Any, Final

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from deploy import dashboards
from tests.deploy.promql import STEP_S, Evaluation, labels
from tests.deploy.test_alerts import GROUPS, RECORDS, ROOT, expanded
from undersong.shared.telemetry import metrics

HOURS: Final = 1.5
BOUNDS: Final = ("0.5", "+Inf")
Series = dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]


@pytest.fixture(scope="module")
def recorded() -> Series:
    """Series of every metric of `metrics.py`, with a value for each of its labels, as Prometheus would have them."""
    steps = range(int(HOURS * 3600 / STEP_S) + 1)
    rising, still = [2.0 * step for step in steps], [1.0 for _ in steps]
    series: Series = {}
    for each in vars(metrics).values():
        if not isinstance(each, Counter | Gauge | Histogram):
            continue
        label = dict.fromkeys(each._labelnames, "x") | ({"status": "500"} if "status" in each._labelnames else {})
        told = {"service": "coordinator", **label}
        name = each._name
        if isinstance(each, Gauge):
            series[name, labels(**told)] = still
        elif isinstance(each, Counter):
            series[f"{name}_total", labels(**told)] = rising
        else:
            series |= {(f"{name}_bucket", labels(**told, le=bound)): rising for bound in BOUNDS}
            series |= {(f"{name}_{part}", labels(**told)): rising for part in ("count", "sum")}
    return series


def shorter(query: str) -> str:
    """Return the query with windows that the recorded hours fill, and all services chosen."""
    return re.sub(r"\[\d+[hd]\]", "[1h]", expanded(query)).replace("$service", ".*")


QUERIES: Final = [
    (f"{row}: {panel.title}: {legend}", query, legend)
    for row, panels in dashboards.ROWS.items()
    for panel in panels
    for legend, query in panel.queries.items()
]


@pytest.mark.parametrize(("query", "legend"), [pytest.param(q, legend, id=name) for name, q, legend in QUERIES])
def test_a_panel_shows_something_with_the_labels_of_its_legend(query: str, legend: str, recorded: Series) -> None:
    found = Evaluation(shorter(query), recorded, HOURS * 3600).run()
    assert isinstance(found, dict)
    assert found, query
    wanted = set(re.findall(r"\{\{(\w+)\}\}", legend))
    assert all(wanted <= {label for label, _ in key} for key in found)


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_record_finds_something(name: str, recorded: Series) -> None:
    found = Evaluation(shorter(name), recorded, HOURS * 3600).run()
    assert found
    assert isinstance(found, dict)
    assert all("service" in dict(key) for key in found), "its first part says by what it is summed"


def test_every_record_is_asked_for() -> None:
    asked = " ".join([query for _, query, _ in QUERIES] + [rule["expr"] for group in GROUPS for rule in group["rules"]])
    assert {name for name in RECORDS if name not in asked} == set()


def test_the_file_is_what_the_table_says() -> None:
    assert json.loads(dashboards.TARGET.read_text()) == dashboards.dashboard(), "make dashboards"


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    made: list[dict[str, Any]] = dashboards.dashboard()["panels"]
    assert len({panel["id"] for panel in made}) == len(made)
    taken: set[tuple[int, int]] = set()
    for panel in made:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < dashboards.COLUMNS
        taken |= cells
        assert panel["type"] == "row" or panel["description"]


def test_the_compose_files_mount_what_is_there() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.observe.yml").read_text())["services"]
    for service in compose.values():
        for volume in service["volumes"]:
            source = str(volume).partition(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists(), source
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["rule_files"]
    assert all((ROOT / "deploy" / "prometheus" / rule.rpartition("/")[2]).is_file() for rule in rules)
