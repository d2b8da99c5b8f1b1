"""Whole rounds of two servers over real processes: ten sites, a million parameters, a recipe that trains nothing.

Measured like group `round`: from one published round to the next, by the coordinator's clock. The peaks are the
kernel's high-water marks of the two verifying processes.
"""

import statistics
import tempfile
from pathlib import Path

from tests.benchmarks.figures import Figure
from tests.benchmarks.group_round import job, join
from undersong.local import Platform

SITES = 10
PARAMETERS = 1_000_000
ENGINE = "twoserver"


def round_figures() -> list[Figure]:
    """Latency, CPU and memory of rounds with ten reports."""
    with tempfile.TemporaryDirectory(prefix="undersong-bench-") as folder, Platform(log_level="WARNING") as platform:
        join(platform, SITES, Path(folder))
        measured = job(platform, SITES, PARAMETERS, ENGINE)
    latency, label = statistics.median(measured.latency_s), "n10_d1m"
    return [
        Figure(f"twoserver.round_latency_s.{label}", latency, "s", note=f"min {min(measured.latency_s):.2f}"),
        Figure(f"twoserver.round_cpu_s.{label}", measured.total_cpu_s, "s", note="all processes, a round"),
        Figure(f"twoserver.agent_cpu_s.{label}", measured.agent_cpu_s, "s", note="a round"),
        Figure(f"twoserver.leader_cpu_s.{label}", measured.cpu_s["aggregator.worker"], "s", note="a round"),
        Figure(f"twoserver.helper_cpu_s.{label}", measured.cpu_s["keys.helper"], "s", note="a round"),
        Figure(f"twoserver.leader_rss_mb.{label}", measured.peak_mb["aggregator.worker"], "MB", 1000, note="peak"),
        Figure(f"twoserver.helper_rss_mb.{label}", measured.peak_mb["keys.helper"], "MB", 1000, note="peak"),
    ]
