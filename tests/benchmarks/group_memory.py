"""Group `memory`: what the embedded platform and an agent hold in memory after ten rounds of the hospital example.

The services are forked from one process, so their proportional set size (PSS) counts what they share once; that of the
process that forked them is in the sum. The agents are processes of their own, as at a site: what is told is the largest
one's resident size, some time after the job, without the recipe's child, which ends by itself (`child_idle_s`).
BENCH_MEMORY_WAIT_S: that time, 45 s by default, longer than a request for a task waits; nothing changes after.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.benchmarks.figures import Figure
from undersong.local import Platform
from undersong.local.sites import SiteFolder

EXAMPLE = Path(__file__).parents[2] / "examples" / "hospital"
ROUNDS = 10
WAIT_S = float(os.environ.get("BENCH_MEMORY_WAIT_S", "45"))
STOP_S, ONLINE_S = 30.0, 180.0


def measure() -> list[Figure]:
    """The group's figures."""
    with (
        tempfile.TemporaryDirectory(prefix="undersong-bench-") as folder,
        Platform(log_level="WARNING") as platform,
        agents(platform, Path(folder)) as running,
    ):
        before = max(_rss_mb(process.pid) for process in running)
        job(platform)
        platform_mb = {name: sum(map(_pss_mb, _tree(one.pid))) for name, one in platform.processes.items()}
        nurseries = [process.pid for process in psutil.Process().children() if _forks(process)]
        platform_mb["(forks them)"] = sum(map(_pss_mb, nurseries))
        time.sleep(WAIT_S)
        after = max(_rss_mb(process.pid) for process in running)
    largest = sorted(platform_mb.items(), key=lambda each: -each[1])
    told = ", ".join(f"{name} {mb:.0f}" for name, mb in largest)
    return [
        Figure("agents.fresh_rss_mb", before, "MB", note="before its first task, the largest of four"),
        Figure("agents.idle_rss_mb", after, "MB", 90, note=f"{WAIT_S:g} s after a job, the largest of four"),
        Figure("round.platform_pss_mb", sum(platform_mb.values()), "MB", 900, note=f"after {ROUNDS} rounds: {told}"),
    ]


@contextmanager
def agents(platform: Platform, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The example's hospitals, each agent an interpreter of its own, until all have told what data they have."""
    running: list[subprocess.Popen[bytes]] = []
    declared = sorted((EXAMPLE / "datasets").glob("*.yaml"))
    environment = {**os.environ, "UNDERSONG_LOG_LEVEL": "WARNING"}
    try:
        for datasets in declared:
            platform.add_site(datasets.stem, datasets=datasets, policy=EXAMPLE / "policy.yaml", start=False)
            command = SiteFolder(platform.home / "sites" / datasets.stem).command()
            log = (folder / f"{datasets.stem}.log").open("wb")
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        until = time.monotonic() + ONLINE_S
        while sum(site.profile is not None for site in platform.client.sites()) < len(declared):
            if time.monotonic() > until:
                raise RuntimeError("the agents did not come on")
            time.sleep(0.5)
        time.sleep(1)
        yield running
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(STOP_S)


def job(platform: Platform) -> None:
    """Run the example's job with `pairwise`."""
    spec: dict[str, Any] = yaml.safe_load((EXAMPLE / "job.yaml").read_text())
    spec |= {"engine": "pairwise", "rounds": ROUNDS}
    found = platform.client.wait(platform.client.submit_job(spec).id, timeout_s=600)
    if found.state != "succeeded":
        raise RuntimeError(f"the job ended {found.state}: {found.reason}")


def _forks(process: psutil.Process) -> bool:
    return any("undersong.local.nursery" in word for word in process.cmdline())


def _tree(pid: int | None) -> list[int]:
    root = psutil.Process(pid)
    return [root.pid, *(child.pid for child in root.children(recursive=True))]


def _rss_mb(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 1e6


def _pss_mb(pid: int) -> float:
    return _rollup(pid)["Pss"] / 1e3


def _rollup(pid: int) -> Mapping[str, float]:
    """Kilobytes by kind, as the kernel adds them up."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: float(line.split()[1]) * 1.024 for line in lines}
