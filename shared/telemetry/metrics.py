"""Every Prometheus metric of the platform, in one place, so that names, units and labels stay consistent.

Base units, in the name; counters end in ``_total`` where they are read. No owner, site, agent, run or user is ever a
label: those are in SQL and in the logs. `docs/operations/runbook.md` says what to do about each alert.
"""

from importlib.metadata import version
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, start_http_server

# The buckets of OpenTelemetry's semantic conventions for HTTP.
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_SHORT_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_BYTES: Final = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)

# Requests

BUILD_INFO = Gauge("build_info", "Version of the running process.", ["service", "version"])
HTTP_DURATION = Histogram(
    "http_server_request_duration_seconds",
    "Time to answer a request.",
    ["method", "route", "status"],
    buckets=_SECONDS,
)
HTTP_ACTIVE = Gauge("http_server_active_requests", "Requests being answered.")
HTTP_BODY_BYTES = Histogram(
    "http_server_request_body_size_bytes", "Size of request bodies.", ["method", "route"], buckets=_BYTES
)
SIGNATURE_FAILURES = Counter("fl_signature_failures", "Refused signatures.", ["reason"])

# Rounds

ROUNDS = Counter("fl_rounds", "Rounds that ended.", ["outcome", "reason"])
ROUND_PHASE_SECONDS = Histogram(
    "fl_round_phase_duration_seconds", "Time rounds spend in a phase.", ["phase"], buckets=_LONG_SECONDS
)
ROUND_AGE_SECONDS = Gauge("fl_round_age_seconds", "Age of the oldest round in a state.", ["state"])
ROUND_OVERDUE_SECONDS = Gauge(
    "fl_round_overdue_seconds", "How long the most overdue round that has not ended is past its deadline; 0 for none."
)
PARTICIPATION = Histogram(
    "fl_participation_ratio", "Sites counted over sites asked.", buckets=tuple(tenth / 10 for tenth in range(1, 11))
)
THIN_ROUNDS = Gauge(
    "fl_rounds_thin_recent",
    "How many of the last three rounds lost sites and ended with less than a fifth above the fewest they needed.",
)
UPDATES = Counter("fl_updates", "Updates by what became of them.", ["result"])
UPDATES_UNFOLDED = Gauge(
    "fl_updates_unfolded",
    "Updates that are stored and in no worker's sum yet, in SQL: what aggregator workers are scaled by.",
)
PARTS = Counter(
    "fl_parts", "Parts of rounds that several aggregator workers share, by what became of them.", ["result"]
)
UPDATE_BYTES = Histogram("fl_update_bytes", "Size of accepted updates.", buckets=_BYTES)
UPLOAD_SECONDS = Histogram(
    "fl_update_upload_seconds", "Time from an update's first byte to its receipt.", buckets=_LONG_SECONDS
)
RECEIPTS_UNCOUNTED = Gauge(
    "fl_receipts_uncounted",
    "Updates of published rounds that were acknowledged and are missing from the sum; always 0.",
)
STRAGGLERS = Counter("fl_stragglers", "Sites that were asked and did not answer before the deadline.")
TASKS_UNLEASED = Gauge(
    "fl_tasks_unleased",
    "Open tasks of rounds that collect which their site, heard lately and without another task, has not leased.",
)
TASKS_ENDED = Counter("fl_tasks_ended", "Tasks that ended.", ["state"])
TASK_ATTEMPTS = Histogram("fl_task_attempts", "Attempts per finished task.", buckets=(1, 2, 3, 4, 5))
DEAD_TASKS = Gauge("fl_dead_tasks", "Tasks that used up their attempts and await an operator's decision.")
WEBHOOK_ATTEMPTS = Counter(
    "fl_webhook_attempts", "Attempts to deliver an event to a webhook, by the state that they left it in.", ["state"]
)
LEASES_EXPIRED = Counter("fl_lease_expired", "Leases that ran out.")

# Agents, aggregated

SITES_ONLINE = Gauge("fl_sites_online", "Sites with a recent heartbeat, by the version of their agent.", ["version"])
SITES = Gauge("fl_sites", "Sites heard within a day (recent), and those of them silent for three minutes.", ["state"])
HEARTBEAT_AGE_SECONDS = Histogram(
    "fl_agent_heartbeat_age_seconds", "Time between two signs of life of one site.", buckets=_LONG_SECONDS
)
AGENT_TASK_SECONDS = Histogram(
    "fl_agent_task_seconds",
    "Time from a task's opening to its completion: training, steps and upload.",
    ["kind"],
    buckets=_LONG_SECONDS,
)
CLOCK_SKEW_SECONDS = Histogram(
    "fl_agent_clock_skew_seconds",
    "How far the time in a signed request is from ours.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300),
)

# Doorbells and repairs

OUTBOX_UNSENT = Gauge("fl_outbox_unsent", "Events not yet announced.")
OUTBOX_OLDEST_SECONDS = Gauge("fl_outbox_oldest_age_seconds", "Age of the oldest event not yet announced.")
STREAM_PENDING = Gauge("fl_stream_pending", "Events delivered and not acknowledged.", ["topic", "group"])
STREAM_IDLE_SECONDS = Gauge("fl_stream_idle_max_seconds", "Longest idle pending event.", ["topic", "group"])
SWEEPER_REPAIRS = Counter("fl_sweeper_repairs", "Repairs by the sweeper; nearly none in health.", ["kind"])
REDIS_FAILURES = Counter("fl_redis_failures", "Failed Redis operations.", ["operation"])
OUTBOX_TAILED = Counter("fl_outbox_tailed", "Events read from the outbox itself because Redis failed.")
REDIS_MEMORY_RATIO = Gauge("fl_redis_memory_ratio", "Memory that Redis uses, over its limit or the machine's memory.")

# Databases

TX_RETRIES = Counter("fl_tx_retries", "Transactions run again, by SQLSTATE or a like word.", ["sqlstate"])
TX_SECONDS = Histogram("fl_tx_duration_seconds", "Duration of named transactions.", ["name"], buckets=_SHORT_SECONDS)
POOL_IN_USE = Gauge("fl_db_pool_in_use", "Database connections in use.")
POOL_WAITING = Gauge("fl_db_pool_waiting", "Transactions that wait for a connection, or for their turn to write.")
DATABASE_BYTES = Gauge("fl_db_size_bytes", "Size of the service's database.")

DAMAGED_BLOBS = Counter("fl_damaged_blobs", "Stored files that no longer had their digest, set aside.", ["service"])

# Cryptography and evidence

SECAGG_FAILURES = Counter("fl_secagg_failures", "Failed steps of secure aggregation.", ["step"])
MANIFEST_MISMATCH = Counter("fl_manifest_mismatch", "Updates bound to another manifest.")
AUDIT_APPEND_FAILURES = Counter("fl_audit_append_failures", "Entries that the transparency log did not take.")
CHECKPOINT_AGE_SECONDS = Gauge("fl_checkpoint_age_seconds", "Time since a head of the transparency log was signed.")
KEY_AGE_SECONDS = Gauge("fl_key_age_seconds", "Age of this service's key.", ["kind"])
KEY_USES_RATIO = Gauge("fl_key_uses_ratio", "Uses of a key over the limit at which it must be rotated.", ["kind"])
REVOCATION_AGE_SECONDS = Gauge("fl_revocation_feed_age_seconds", "Time since the revocation feed was last read.")
CERTIFICATE_SECONDS = Gauge("fl_certificate_expiry_seconds", "Time until a certificate ends.", ["kind"])
CERTIFICATE_LIFE_RATIO = Gauge("fl_certificate_life_ratio", "What is left of a certificate's life.", ["kind"])
TLS_CERTIFICATE_SECONDS = Gauge("fl_tls_certificate_expiry_seconds", "Time until this server's TLS certificate ends.")

# Predictions

INFERENCE_ROWS = Counter("fl_inference_rows", "Rows of requests for predictions, by what became of them.", ["outcome"])
INFERENCE_BATCH_ROWS = Histogram(
    "fl_inference_batch_rows", "Rows that were predicted together.", buckets=tuple(4**power for power in range(8))
)
INFERENCE_BATCH_SECONDS = Histogram(
    "fl_inference_batch_duration_seconds", "Time to predict a batch.", buckets=_SHORT_SECONDS
)
INFERENCE_QUEUED_ROWS = Gauge("fl_inference_queued_rows", "Rows that wait for a prediction.")

# Disks and backups

DISK_FREE_BYTES = Gauge("fl_disk_free_bytes", "Free bytes where the service keeps its data.", ["volume"])
DISK_FREE_RATIO = Gauge("fl_disk_free_ratio", "Free bytes over the size of the volume.", ["volume"])
BACKUP_AGE_SECONDS = Gauge(
    "fl_backup_age_seconds", "Time since the last backup, or since there is something to back up."
)
RESTORE_DRILL_AGE_SECONDS = Gauge(
    "fl_restore_drill_age_seconds", "Time since the last restore or restore drill, or since there is something to lose."
)


def say_build(service: str) -> None:
    """Say which version runs; once in every process."""
    BUILD_INFO.labels(service, version("undersong")).set(1)


def serve_metrics(port: int, host: str = "127.0.0.1") -> None:
    """Offer ``/metrics`` from a thread, for processes without an HTTP face."""
    start_http_server(port, host)
