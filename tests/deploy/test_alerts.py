"""Every alert fires in its drill and clears after, has its runbook entry, and asks only for metrics that exist."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client import REGISTRY

from tests.deploy.promql import STEP_S, Evaluation, Labels, labels
from undersong.shared.telemetry import metrics

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "deploy" / "prometheus" / "alerts.yml"
GROUPS: Final[list[dict[str, Any]]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: Final = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
RECORDED: Final[list[dict[str, Any]]] = yaml.safe_load((RULES.parent / "recording.yml").read_text())["groups"]
RECORDS: Final[dict[str, str]] = {rule["record"]: rule["expr"] for group in RECORDED for rule in group["rules"]}
RUNBOOK: Final = ROOT / "docs" / "operations" / "runbook.md"
HOUR: Final = 3600.0
C: Final = {"service": "coordinator"}
REQUESTS = "http_server_request_duration_seconds"
JOB = {"job": "undersong", "instance": "keys-api:7003"}

# For each alert: series as (name, labels, value while well, value while ill); as a rate a second where it is a counter.
Drill = list[tuple[str, dict[str, str], float, float]]
RATES: Final = ("_total", "_count", "_bucket")
DRILLS: Final[dict[str, Drill]] = {
    "RoundStuck": [("fl_round_overdue_seconds", C, 20, 90)],
    "AcknowledgedButMissing": [("fl_receipts_uncounted", {"service": "aggregator"}, 0, 1)],
    "ManifestMismatch": [("fl_manifest_mismatch_total", {"service": "aggregator"}, 0, 0.1)],
    "EvidenceNotLogged": [("fl_audit_append_failures_total", {"service": "aggregator"}, 0, 0.1)],
    "CheckpointOld": [("fl_checkpoint_age_seconds", {"service": "keys"}, 60, 700)],
    "SignaturesRefused": [("fl_signature_failures_total", {**C, "reason": "signature-invalid"}, 0, 0.1)],
    "ErrorBudgetBurns": [
        (f"{REQUESTS}_count", {**C, "route": "/v1/jobs", "status": "500"}, 0.001, 3),
        (f"{REQUESTS}_count", {**C, "route": "/v1/jobs", "status": "200"}, 100, 97),
    ],
    "ErrorBudgetDrains": [
        (f"{REQUESTS}_count", {**C, "route": "/v1/jobs", "status": "500"}, 0.0001, 1),
        (f"{REQUESTS}_count", {**C, "route": "/v1/jobs", "status": "200"}, 100, 99),
    ],
    "ControlRoutesSlow": [
        (f"{REQUESTS}_bucket", {**C, "route": "/v1/jobs", "le": "0.1"}, 100, 90),
        (f"{REQUESTS}_bucket", {**C, "route": "/v1/jobs", "le": "1.0"}, 100, 100),
        (f"{REQUESTS}_bucket", {**C, "route": "/v1/jobs", "le": "+Inf"}, 100, 100),
        (f"{REQUESTS}_bucket", {**C, "route": "/v1/tasks/leases", "le": "0.1"}, 0, 0),  # long polls do not count
        (f"{REQUESTS}_bucket", {**C, "route": "/v1/tasks/leases", "le": "+Inf"}, 100, 100),
    ],
    "ServiceAway": [("up", JOB, 1, 0)],
    "SitesSilent": [("fl_sites", {**C, "state": "silent"}, 1, 4), ("fl_sites", {**C, "state": "recent"}, 10, 10)],
    "DiskAlmostFull": [("fl_disk_free_ratio", {**C, "volume": "data"}, 0.5, 0.05)],
    "SweeperRepairs": [("fl_sweeper_repairs_total", {**C, "kind": "rounds"}, 0.01, 0.2)],
    "OutboxOld": [("fl_outbox_oldest_age_seconds", C, 1, 45)],
    "DeadTasks": [("fl_dead_tasks", C, 0, 1)],
    "TransactionsRetried": [
        ("fl_tx_retries_total", {**C, "sqlstate": "40001"}, 0.01, 1),
        ("fl_tx_duration_seconds_count", {**C, "name": "task.lease"}, 10, 10),
    ],
    "ParticipationThin": [("fl_rounds_thin_recent", C, 2, 3)],
    "Stragglers": [
        ("fl_stragglers_total", C, 0.1, 0.5),
        ("fl_tasks_ended_total", {**C, "state": "done"}, 0.9, 0.5),
        ("fl_tasks_ended_total", {**C, "state": "expired"}, 0.1, 0.5),
    ],
    "CertificateAges": [("fl_certificate_life_ratio", {**C, "kind": "identity"}, 0.34, 0.3)],
    "TlsCertificateEnds": [("fl_tls_certificate_expiry_seconds", C, 90 * 86_400, 20 * 86_400)],
    "KeyUses": [("fl_key_uses_ratio", {**C, "kind": "seal"}, 0.1, 0.9)],
    "RevocationsUnread": [("fl_revocation_feed_age_seconds", C, 5, 400)],
    "DiskFills": [("fl_disk_free_ratio", {**C, "volume": "data"}, 0.5, 0.15)],
    "RedisMemory": [("fl_redis_memory_ratio", C, 0.1, 0.8)],
    "BackupOld": [("fl_backup_age_seconds", C, 80_000, 100_000)],
    "RestoreDrillOld": [("fl_restore_drill_age_seconds", C, 80_000, 31 * 86_400)],
}
WELL_S, ILL_S, AFTER_S = 2 * HOUR, 8 * HOUR, 16 * HOUR
_UNITS: Final = {"s": 1, "m": 60, "h": 3600}


def expanded(expression: str) -> str:
    """Return the expression with records replaced by what they record; matchers on them go, as the drill has one."""
    return re.sub(r"(service:[a-z0-9_]+:[a-z0-9_]+)(\{[^}]*\})?", lambda found: f"({RECORDS[found[1]]})", expression)


def held_s(rule: dict[str, Any]) -> float:
    text = str(rule.get("for", "0s"))
    return float(text[:-1]) * _UNITS[text[-1]]


def drilled(drill: Drill) -> dict[tuple[str, Labels], list[float]]:
    """Two hours well, six hours ill, eight hours well again."""
    series = {}
    for name, named, well, ill in drill:
        values, sum_ = [], 0.0
        for step in range(int(AFTER_S / STEP_S) + 1):
            now = ill if WELL_S < step * STEP_S <= ILL_S else well
            sum_ += now * STEP_S
            values.append(sum_ if name.endswith(RATES) else now)
        series[name, labels(**named)] = values
    return series


def fires(rule: dict[str, Any], series: dict[tuple[str, Labels], list[float]], at_s: float) -> bool:
    """Whether the expression held for as long as the rule wants."""
    steps = int(held_s(rule) / 60) + 1
    moments = [at_s - 60 * step for step in range(steps)]
    return all(bool(Evaluation(expanded(rule["expr"]), series, moment).run()) for moment in moments)


def test_every_alert_has_a_drill() -> None:
    assert set(DRILLS) == set(ALERTS)


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_fires_in_its_drill_and_clears_after(name: str) -> None:
    rule, series = ALERTS[name], drilled(DRILLS[name])
    assert not fires(rule, series, WELL_S)
    assert fires(rule, series, ILL_S)
    assert not fires(rule, series, AFTER_S)


def test_no_alert_fires_where_nothing_is_known_yet() -> None:
    assert not [name for name, rule in ALERTS.items() if fires(rule, {}, WELL_S)]


def names_in(expression: str) -> Iterator[str]:
    for name in re.findall(r"\b(?:fl_|http_server_)[a-z0-9_]+", expression):
        yield re.sub(r"_(?:total|bucket|count|sum)$", "", name)


def test_alerts_ask_only_for_metrics_and_labels_that_exist() -> None:
    families = {family.name: family for family in REGISTRY.collect()}
    known = {value._name: set(value._labelnames) for value in vars(metrics).values() if hasattr(value, "_labelnames")}
    for name, rule in ALERTS.items():
        expression = expanded(rule["expr"])
        for metric in names_in(expression):
            assert metric in families, f"{name} asks for {metric}"
        asked = set(re.findall(r"[{,]\s*([a-z_]+)\s*(?:=|!)", expression))
        asked |= {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
        offered = set().union(*(known.get(metric, set()) for metric in names_in(expression)))
        assert asked <= offered | {"service", "job", "instance", "le"}, name


def test_every_alert_says_what_and_what_first() -> None:
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("page", "ticket"), name
        assert rule["annotations"]["summary"], name
        assert rule["annotations"]["first_step"], name


def test_every_alert_has_its_entry_in_the_runbook() -> None:
    entries = re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(entries) == sorted(ALERTS)
    for entry in re.split(r"^### ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
        name = entry.splitlines()[0]
        for part in ("**Means.**", "**Look.**", "**Do.**"):
            assert part in entry, f"{name} lacks {part}"
