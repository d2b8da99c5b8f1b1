"""Write the Grafana dashboard, `deploy/grafana/undersong.json`, from the table of panels below; `--check` compares.

`make dashboards` runs it. Queries ask for metrics of `shared/telemetry/metrics.py` and records of
`deploy/prometheus/recording.yml`; tests/deploy/test_dashboards.py runs each of them.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

TARGET: Final = Path(__file__).parent / "grafana" / "undersong.json"
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
WIDTH, HEIGHT, COLUMNS = 8, 7, 24
CHOSEN: Final = 'service=~"$service"'


@dataclass(frozen=True)
class Panel:
    """One diagram: queries by the legends of their lines, the unit of its axis, and what a reader learns from it."""

    title: str
    queries: dict[str, str]
    about: str
    unit: str = "short"
    limits: tuple[float, ...] = field(default=())


def longest(metric: str, *by: str) -> str:
    """Return the query of a gauge that every process of a service tells alike."""
    return f"max by ({', '.join(('service', *by))}) ({metric}{{{CHOSEN}}})"


def rate(metric: str, *by: str) -> str:
    """Return the query of a counter's growth in a second."""
    return f"sum by ({', '.join(('service', *by))}) (rate({metric}{{{CHOSEN}}}[5m]))"


def high(metric: str, *by: str) -> str:
    """Return the query of the 95th percentile of a histogram."""
    labels = ", ".join(("service", *by, "le"))
    return f"histogram_quantile(0.95, sum by ({labels}) (rate({metric}_bucket{{{CHOSEN}}}[5m])))"


ROWS: Final[dict[str, tuple[Panel, ...]]] = {
    "Rounds": (
        Panel("Rounds that ended", {"{{outcome}}": f"service:rounds:rate1h{{{CHOSEN}}} * 3600"}, "In an hour."),
        Panel("Phases", {"{{service}} {{phase}}": f"service:round_phase_seconds:p95_rate1h{{{CHOSEN}}}"},
              "How long 95 of 100 rounds spend in a phase, over an hour.", "s"),
        Panel("Past the deadline", {"{{service}}": longest("fl_round_overdue_seconds")},
              "The most overdue round; the alert RoundStuck begins at a minute.", "s", (60,)),
        Panel("Updates", {"{{result}}": rate("fl_updates_total", "result")},
              "Updates in a second, by what became of them."),
        Panel("Waiting to be folded", {"updates": longest("fl_updates_unfolded")},
              "Stored and in no worker's sum yet: what aggregator workers are scaled by."),
        Panel("Waiting for a lease", {"tasks": longest("fl_tasks_unleased")},
              "Open tasks that their site could take at once."),
    ),
    "Sites": (
        Panel("Sites", {"{{state}}": longest("fl_sites", "state")},
              "Heard within a day, and those silent for three minutes."),
        Panel("Participation", {"95 %": high("fl_participation_ratio")},
              "Sites counted over sites asked.", "percentunit"),
        Panel("Tasks", {"{{kind}}": high("fl_agent_task_seconds", "kind")},
              "From a task's opening to its completion, at 95 of 100 sites.", "s"),
    ),
    "Requests": (
        Panel("Requests", {"{{service}}": f"service:http_requests:rate5m{{{CHOSEN}}}"},
              "Answers in a second.", "reqps"),
        Panel("Errors over the budget",
              {"1 h": f"service:http_errors:ratio_rate1h{{{CHOSEN}}} / 0.001",
               "6 h": f"service:http_errors:ratio_rate6h{{{CHOSEN}}} / 0.001",
               "3 d": f"service:http_errors:ratio_rate3d{{{CHOSEN}}} / 0.001"},
              "How many times too fast the budget of 0.1 % is used; pages begin at 14.4 in an hour and 6 in six hours.",
              "short", (1, 6, 14.4)),
        Panel("Control routes", {"{{service}}": f"service:http_control_seconds:p99_rate5m{{{CHOSEN}}}"},
              "99 of 100 answers; long polls, streams and bodies do not count.", "s", (0.5,)),
    ),
    "State": (
        Panel("Events that wait", {"{{service}}": longest("fl_outbox_unsent")}, "Written and not yet announced."),
        Panel("Repairs by the sweeper", {"{{service}} {{kind}}": rate("fl_sweeper_repairs_total", "kind")},
              "Hardly any in health: more means that notifications are lost."),
        Panel("Transactions", {"{{service}}": high("fl_tx_duration_seconds")}, "95 of 100, all names together.", "s"),
        Panel("Waiting for a connection", {"{{service}}": longest("fl_db_pool_waiting")}, "Transactions without one."),
        Panel("Disks", {"{{service}} {{volume}}": f"min by (service, volume) (fl_disk_free_ratio{{{CHOSEN}}})"},
              "What is free.", "percentunit", (0.1, 0.2)),
        Panel("Evidence", {"head of the log": longest("fl_checkpoint_age_seconds"),
                           "revocations read": longest("fl_revocation_feed_age_seconds")},
              "Age of the log's newest head, and since when the revocation feed was not read.", "s"),
    ),
}  # fmt: skip


def panel(made: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """Return one panel as Grafana stores it."""
    steps = [{"color": "green", "value": None}, *({"color": "red", "value": limit} for limit in made.limits)]
    return {
        "id": number,
        "type": "timeseries",
        "title": made.title,
        "description": made.about,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": query, "legendFormat": legend, "datasource": SOURCE}
            for at, (legend, query) in enumerate(made.queries.items())
        ],
        "fieldConfig": {
            "defaults": {
                "unit": made.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": {"thresholdsStyle": {"mode": "line" if made.limits else "off"}},
            },
            "overrides": [],
        },
    }


def dashboard() -> dict[str, Any]:
    """Return the whole dashboard."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        per_line = COLUMNS // WIDTH
        for at, made in enumerate(row):
            x, line = at % per_line * WIDTH, at // per_line
            panels.append(panel(made, len(panels) + 1, x, y + 1 + line * HEIGHT))
        y += 1 + -(-len(row) // per_line) * HEIGHT
    variables = [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}},
        {"name": "service", "label": "Service", "type": "query", "datasource": SOURCE, "refresh": 2, "multi": True,
         "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
         "query": {"query": "label_values(build_info, service)", "refId": "service"}},
    ]  # fmt: skip
    return {
        "uid": "undersong",
        "title": "Undersong",
        "tags": ["undersong"],
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": variables},
        "panels": panels,
    }


def main() -> int:
    """Write or compare."""
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    if "--check" not in sys.argv:
        TARGET.write_text(text)
    elif not TARGET.exists() or TARGET.read_text() != text:
        sys.stderr.write("deploy/grafana/undersong.json is not what deploy/dashboards.py says: make dashboards\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
