"""Prometheus metrics of requests, rounds and identity, in one place, so that names, units and labels stay consistent.

What the database and queue adapters count is defined beside them.

No owner, site, agent, run or user is ever a label: those are in SQL and in the logs.
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram, start_http_server

# The buckets of OpenTelemetry's semantic conventions for HTTP.
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_BYTES: Final = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)
_LONG_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)

BUILD_INFO = Gauge("build_info", "Version of the running service.", ["service", "version"])
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

ROUNDS = Counter("fl_rounds", "Rounds that ended.", ["outcome", "reason"])
ROUND_PHASE_SECONDS = Histogram(
    "fl_round_phase_duration_seconds", "Time rounds spend in a phase.", ["phase"], buckets=_LONG_SECONDS
)
ROUND_AGE_SECONDS = Gauge("fl_round_age_seconds", "Age of the oldest round in a state.", ["state"])
PARTICIPATION = Histogram(
    "fl_participation_ratio", "Sites counted over sites asked.", buckets=tuple(tenth / 10 for tenth in range(1, 11))
)
UPDATES = Counter("fl_updates", "Updates by what became of them.", ["result"])
UPDATE_BYTES = Histogram("fl_update_bytes", "Size of accepted updates.", buckets=_BYTES)
STRAGGLERS = Counter("fl_stragglers", "Sites that were asked and did not answer in time.")
TASK_ATTEMPTS = Histogram("fl_task_attempts", "Attempts per finished task.", buckets=(1, 2, 3, 4, 5))
DEAD_TASKS = Gauge("fl_dead_tasks", "Tasks that used up their attempts.")
LEASES_EXPIRED = Counter("fl_lease_expired", "Leases that ran out.")
SITES_ONLINE = Gauge("fl_sites_online", "Sites with a recent heartbeat.", ["version"])

SECAGG_FAILURES = Counter("fl_secagg_failures", "Failed steps of secure aggregation.", ["step"])
SIGNATURE_FAILURES = Counter("fl_signature_failures", "Refused signatures.", ["reason"])
MANIFEST_MISMATCH = Counter("fl_manifest_mismatch", "Updates bound to another manifest.")
REVOCATION_AGE_SECONDS = Gauge("fl_revocation_feed_age_seconds", "Time since the revocation feed was last read.")
CERTIFICATE_SECONDS = Gauge("fl_certificate_expiry_seconds", "Time until this service's certificate ends.")
TLS_CERTIFICATE_SECONDS = Gauge("fl_tls_certificate_expiry_seconds", "Time until this server's TLS certificate ends.")
DISK_FREE_BYTES = Gauge("fl_disk_free_bytes", "Free bytes where the service keeps its data.")


def serve_metrics(port: int, host: str = "127.0.0.1") -> None:
    """Offer ``/metrics`` from a thread, for processes without an HTTP face."""
    start_http_server(port, host)
