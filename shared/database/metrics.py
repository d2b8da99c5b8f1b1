"""What the database adapter counts."""

from prometheus_client import Counter

TX_RETRIES = Counter("fl_tx_retries_total", "Transactions run again, by SQLSTATE or a like word.", ["sqlstate"])
