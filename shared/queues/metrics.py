"""What the doorbells count."""

from prometheus_client import Counter, Gauge

OUTBOX_UNSENT = Gauge("fl_outbox_unsent", "Events not yet rung.")
OUTBOX_OLDEST_SECONDS = Gauge("fl_outbox_oldest_age_seconds", "Age of the oldest event not yet rung.")
STREAM_PENDING = Gauge("fl_stream_pending", "Events delivered and not acknowledged.", ["topic", "group"])
STREAM_IDLE_SECONDS = Gauge("fl_stream_idle_max_seconds", "Longest idle pending event.", ["topic", "group"])
SWEEPER_REPAIRS = Counter("fl_sweeper_repairs", "Repairs by the sweeper; nearly none in health.", ["kind"])
REDIS_FAILURES = Counter("fl_redis_failures", "Failed Redis operations.", ["operation"])
