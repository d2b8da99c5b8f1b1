"""What operators see of a running platform: one trace through every party, every named metric, ids in every error."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from tests.pace import Deadline
from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.local.layout import SERVICES, free_port
from undersong.shared.telemetry import metrics

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]

SITES = ("north", "east", "south")
TRACE = "0af7651916cd43dd8448eb211c80319c"
PRIVATE = {"owner", "site", "agent", "run", "job", "round", "user", "site_id", "user_id", "job_id", "round_id"}
UNITS = ("_seconds", "_bytes", "_ratio", "_total", "_info")
COUNTS = {  # gauges and histograms of plain numbers
    "fl_dead_tasks", "fl_inference_batch_rows", "fl_inference_queued_rows", "fl_tasks_unleased", "fl_updates_unfolded",
    "fl_db_pool_in_use", "fl_db_pool_waiting", "fl_outbox_unsent", "fl_receipts_uncounted",
    "fl_rounds_thin_recent", "fl_sites", "fl_sites_online", "fl_stream_pending", "fl_task_attempts",
    "http_server_active_requests",
}  # fmt: skip
MOST_SERIES = 3000


@pytest.fixture(scope="module")
def spans_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spans")


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {service: free_port() for service in SERVICES}


@pytest.fixture(scope="module")
def platform(
    tmp_path_factory: pytest.TempPathFactory, spans_folder: Path, ports: dict[str, int], forks: Forks
) -> Iterator[Platform]:
    endpoint = f"file:{spans_folder}"
    settings = {
        service: {"otel_endpoint": endpoint, "worker_metrics_port": str(port)} for service, port in ports.items()
    }
    with Platform(tmp_path_factory.mktemp("home"), settings=settings, forks=forks) as running:
        for name in SITES:
            datasets = {"datasets": [{"name": "nothing", "kind": "none", "columns": []}]}
            running.add_site(name, datasets=datasets, agent={"otel_endpoint": endpoint})
        running.wait_sites_online(len(SITES))
        yield running


@pytest.fixture(scope="module")
def job_id(platform: Platform) -> str:
    """A finished job, submitted by a program that has a trace of its own."""
    spec = {
        "name": "watched",
        "federation_id": platform.federation().id,
        "model": {"name": "watched"},
        "recipe": {"name": "null", "params": {"parameters": 1000}},
        "data": {"dataset": "nothing"},
        "rounds": 2,
        "deadlines": {"round_s": 60},
    }
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "authorization": f"Bearer {platform.profile.token}"}
    headers["idempotency-key"] = "watched-0000000000000001"
    answer = httpx.post(f"{platform.urls['coordinator']}/v1/jobs", json=spec, headers=headers)
    assert answer.status_code == 201, answer.text
    found = str(answer.json()["id"])
    assert platform.client.wait(found, timeout_s=300).state == "succeeded"
    return found


def read_spans(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]


def eventually(condition: Any, what: str, within_s: float = 60.0) -> None:
    deadline = Deadline(within_s)
    while not condition():
        assert not deadline.over(), what
        time.sleep(0.2)


def test_one_trace_leads_from_the_call_to_the_published_model(
    platform: Platform, spans_folder: Path, job_id: str
) -> None:
    """Coordinator, outbox, worker, agents, aggregator and its worker, keys, registry: all in the caller's trace."""

    def ours() -> set[tuple[str, str]]:
        found = [span for span in read_spans(spans_folder) if span["context"]["trace_id"] == f"0x{TRACE}"]
        return {(span["resource"]["attributes"]["service.name"], span["name"]) for span in found}

    wanted = {
        ("undersong-coordinator", "POST request"),  # the call itself
        ("undersong-coordinator", "coordinator.jobs job.created"),  # the outbox row, through the stream
        ("undersong-aggregator", "PUT request"),  # opening the round, and the agents' uploads
        ("undersong-aggregator", "round.look_after"),  # the worker that sums
        ("undersong-agent", "task.perform"),
        ("undersong-keys", "POST request"),  # the witness
        ("undersong-registry", "POST request"),  # the publication
    }
    eventually(lambda: wanted <= ours(), f"spans are missing: {wanted - ours()}")
    tasks = [span for span in read_spans(spans_folder) if span["name"] == "task.perform"]
    assert {span["context"]["trace_id"] for span in tasks} == {f"0x{TRACE}"}
    assert len({span["attributes"]["task_id"] for span in tasks}) >= len(SITES) * 2


def test_the_logs_of_every_party_name_the_trace(platform: Platform, job_id: str) -> None:
    logs = {path.stem: path.read_text() for path in (platform.home / "logs").glob("*.log")}
    for name in ("coordinator.worker", "aggregator.worker", *(f"agent.{site}" for site in SITES)):
        assert f'"trace_id": "{TRACE}"' in logs[name], name


def scraped(platform: Platform, ports: dict[str, int]) -> dict[str, dict[str, Metric]]:
    addresses = {f"{service}.api": f"{url}/metrics" for service, url in platform.urls.items()}
    addresses |= {f"{service}.worker": f"http://127.0.0.1:{port}/metrics" for service, port in ports.items()}
    return {
        name: {family.name: family for family in text_string_to_metric_families(httpx.get(url).text)}
        for name, url in addresses.items()
    }


def total(families: dict[str, Metric], name: str) -> float:
    kept = ("", "_total", "_count")
    return sum(s.value for s in families[name].samples if s.name.removeprefix(name) in kept)


def test_every_named_metric_is_written_and_named_by_the_rules(
    platform: Platform, ports: dict[str, int], job_id: str
) -> None:
    found = scraped(platform, ports)
    declared = {value._name for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)}
    for process, families in found.items():
        assert declared <= set(families), process
        assert sum(len(family.samples) for family in families.values()) < MOST_SERIES, process
        assert families["build_info"].samples[0].labels["service"] == process.split(".")[0]
        for name in declared & set(families):
            family = families[name]
            whole = f"{name}_total" if family.type == "counter" else name
            assert re.fullmatch(r"(fl|http_server)_[a-z0-9_]+|build_info", name), name
            assert whole.endswith(UNITS) or name in COUNTS, f"{name} has no unit"
            assert family.documentation.endswith("."), name
            assert not PRIVATE & {label for sample in family.samples for label in sample.labels}, name

    coordinator, aggregator = found["coordinator.api"], found["aggregator.api"]
    for name in ("fl_agent_heartbeat_age_seconds", "fl_agent_task_seconds", "fl_agent_clock_skew_seconds"):
        assert total(coordinator, name) > 0, name
    for name in ("fl_updates", "fl_update_bytes", "fl_update_upload_seconds"):
        assert total(aggregator, name) >= 2 * len(SITES), name
    for name in ("fl_rounds", "fl_round_phase_duration_seconds", "fl_participation_ratio", "fl_task_attempts"):
        assert total(found["coordinator.worker"], name) + total(coordinator, name) > 0, name
    assert total(found["coordinator.worker"], "fl_tx_duration_seconds") > 0
    for process, families in found.items():
        for name in ("fl_db_size_bytes", "fl_disk_free_bytes", "fl_disk_free_ratio", "fl_backup_age_seconds"):
            assert total(families, name) > 0, (process, name)
    eventually(lambda: total(scraped(platform, ports)["coordinator.worker"], "fl_sites_online") == 3, "sites online")
    assert total(found["keys.api"], "fl_certificate_expiry_seconds") > 0
    assert 0 <= total(found["keys.api"], "fl_checkpoint_age_seconds") < 120
    for name in ("fl_receipts_uncounted", "fl_dead_tasks", "fl_round_overdue_seconds", "fl_audit_append_failures"):
        assert sum(total(families, name) for families in found.values()) == 0, name


def test_every_error_carries_an_id_that_the_log_knows(platform: Platform) -> None:
    token = {"authorization": f"Bearer {platform.profile.token}"}
    for service, url in platform.urls.items():
        refused = [
            httpx.get(f"{url}/v1/nothing-here"),
            httpx.delete(f"{url}/health/live"),
            httpx.post(f"{url}/v1/jobs", content=b"{", headers={"content-type": "application/json", **token}),
            httpx.get(f"{url}/v1/jobs", headers={"authorization": "Bearer wrong"}),
            httpx.get(f"{url}/health/live", headers={"content-encoding": "gzip"}),
        ]
        if service == "coordinator":
            refused.append(httpx.get(f"{url}/v1/jobs?limit=x", headers=token))
        for answer in refused:
            assert 400 <= answer.status_code < 500, answer.text
            assert answer.json()["request_id"] == answer.headers["x-request-id"]
        ids = [answer.headers["x-request-id"] for answer in refused]
        log = platform.home / "logs" / f"{service}.api.log"
        missing = [one for one in ids if f'"request_id": "{one}"' not in log.read_text()]
        assert not missing, (service, missing)
