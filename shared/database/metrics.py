"""What the database adapter counts."""

from typing import Final

from prometheus_client import Counter, Histogram

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

TX_RETRIES = Counter("fl_tx_retries", "Transactions run again, by SQLSTATE or a like word.", ["sqlstate"])
TX_SECONDS = Histogram("fl_tx_duration_seconds", "Duration of named transactions.", ["name"], buckets=_SECONDS)
