"""Group `agents`: 2,000 sites that wait and ten that work, on one platform; then 200 sites in one round of a million.

A lease's time goes from the task's opening (the database's clock) to when its agent has it (the agent's clock, of the
same machine). Every task of every round must have been leased, and every poll answered as the protocol says. Memory of
the coordinator's API is sampled every few seconds, after a warm-up. BENCH_AGENTS_MINUTES: how long, 10 by default;
BENCH_AGENTS_IDLE: how many wait.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import psutil

from tests.benchmarks.figures import Figure
from tests.benchmarks.group_round import join
from tests.benchmarks.light_agents import FIRST_POLLS_WITHIN_S, Plan
from undersong.local import Platform

IDLE = int(os.environ.get("BENCH_AGENTS_IDLE", "2000"))
WORKING = 10
FEW, MANY, PARAMETERS = 20, 200, 1_000_000
ROUNDS, WIDE_ROUNDS = 20, 2
MINUTES = float(os.environ.get("BENCH_AGENTS_MINUTES", "10"))
SAMPLE_S = 2.0
JOIN_S, END_S, SETTLE_S = 1800.0, 30.0, 5.0
GROWTH_MB = 16.0  # what may come of caches that have a limit; a leak of 1 KiB a poll would be three times that
FLAT = 1.1  # ten times as many updates may not take more memory than this many times


def measure() -> list[Figure]:
    """The group's figures."""
    with tempfile.TemporaryDirectory(prefix="undersong-bench-") as text, Platform(log_level="WARNING") as platform:
        folder = Path(text)
        join(platform, WORKING, folder)
        with Crowd(platform, folder) as crowd:
            figures = [Figure("agents.join_s", crowd.joined_s, "s", note=f"{IDLE} agents enrol, 16 at once")]
            figures += steady(platform)
            figures += wide(platform)
            report = crowd.end()
        figures += polls(platform, report)
        died = sum(process.restarts for process in platform.processes.values())
        return [*figures, Figure("agents.restarts", died, "processes", 0)]


class Crowd:
    """The load process."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self._report, self._plan = folder / "report.json", folder / "plan.json"
        (real, *_) = (site for site in platform.client.sites() if site.profile is not None)
        groups = {f"n{n}": n for n in (FEW, MANY)}
        profile = {name: str(value) for name, value in asdict(platform.profile).items()}
        plan = Plan(profile, real.federation_id, IDLE, groups, dict(real.profile or {}), str(self._report))
        self._plan.write_text(json.dumps(asdict(plan)))
        self.joined_s = 0.0

    def __enter__(self) -> "Crowd":
        """Start, and wait until all have joined."""
        command = [sys.executable, "-m", "tests.benchmarks.light_agents", str(self._plan)]
        began = time.monotonic()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        guard = threading.Timer(JOIN_S, self._process.kill)
        guard.start()
        joined = (self._process.stdout or _nothing()).readline()
        guard.cancel()
        if not joined:
            self._process.kill()
            raise RuntimeError("the load process ended before all agents had joined")
        self.joined_s = time.monotonic() - began
        time.sleep(FIRST_POLLS_WITHIN_S + SETTLE_S)  # every agent polls
        return self

    def __exit__(self, *_: object) -> None:
        """End it, whatever happened."""
        self._process.kill()
        self._process.wait()

    def end(self) -> dict[str, Any]:
        """Stop the agents; their report."""
        self._process.terminate()
        self._process.wait(END_S)
        found: dict[str, Any] = json.loads(self._report.read_text())
        return found


def steady(platform: Platform) -> list[Figure]:
    """Jobs of the ten, one after the other, while the others wait."""
    opened: dict[str, datetime] = {}
    before = _cpu_s(platform, "coordinator.api")
    began = time.monotonic()
    with sampled(platform, ("coordinator.api", "coordinator.worker")) as samples:
        for number in itertools.count():
            opened |= job(platform, f"work-{number}", "rows", rounds=ROUNDS, engine="pairwise", parameters=10_000)
            if time.monotonic() - began > MINUTES * 60:
                break
    seconds = time.monotonic() - began
    leased = dict(_leased(platform))
    waits = sorted((leased[task] - at).total_seconds() * 1000 for task, at in opened.items() if task in leased)
    api, worker = samples["coordinator.api"], samples["coordinator.worker"]
    load = f"load {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores"
    return [
        Figure("agents.lease_p50_ms", statistics.median(waits), "ms", note=f"{len(waits)} leases in {seconds:.0f} s"),
        Figure("agents.lease_p99_ms", waits[int(len(waits) * 0.99)], "ms", 1000, note=load),
        Figure("agents.lease_max_ms", waits[-1], "ms"),
        Figure("agents.missed_leases", len(opened) - len(waits), "tasks", 0, note="of the working agents"),
        Figure("agents.coordinator_growth_mb", growth(api), "MB", GROWTH_MB, note=f"API, in {seconds:.0f} s"),
        Figure("agents.coordinator_worker_growth_mb", growth(worker), "MB", GROWTH_MB, note="worker"),
        Figure("agents.coordinator_rss_mb", api[-1], "MB", note=f"API, {IDLE + WORKING} long polls"),
        Figure("agents.coordinator_cpu", (_cpu_s(platform, "coordinator.api") - before) / seconds, "cores", note="API"),
    ]


def wide(platform: Platform) -> list[Figure]:
    """Rounds of a million parameters over a few sites, then over ten times as many."""
    peaks: dict[int, dict[str, float]] = {}
    seconds: dict[int, float] = {}
    for n in (FEW, MANY):
        began = time.monotonic()
        job(platform, f"wide-{n}", f"n{n}", rounds=WIDE_ROUNDS, engine="sealed", parameters=PARAMETERS, n=n)
        seconds[n] = (time.monotonic() - began) / WIDE_ROUNDS
        peaks[n] = {role: _peak_mb(platform, f"aggregator.{role}") for role in ("worker", "api")}
    few, many = peaks[FEW], peaks[MANY]
    return [
        Figure("agents.aggregator_rss_mb.n20_d1m", few["worker"], "MB", note="worker, peak"),
        Figure("agents.aggregator_rss_mb.n200_d1m", many["worker"], "MB", FLAT * few["worker"], note="worker, peak"),
        Figure("agents.aggregator_api_rss_mb.n20_d1m", few["api"], "MB", note="API, peak; uploads stream through it"),
        Figure("agents.aggregator_api_rss_mb.n200_d1m", many["api"], "MB", FLAT * few["api"], note="API, peak"),
        Figure("agents.round_s.n200_d1m", seconds[MANY], "s", note="a round with its model, light agents included"),
    ]


def polls(platform: Platform, report: dict[str, Any]) -> list[Figure]:
    """What the light agents saw."""
    answers: dict[str, int] = report["answers"]
    tasks = [
        task for job_ in platform.client.jobs() if job_.name.startswith("wide") for task in _tasks(platform, job_.id)
    ]
    leased = dict(reversed(report["leases"]))  # the first lease of each
    waits = sorted((leased[t["id"]] - _moment(t["created_at"]).timestamp()) * 1000 for t in tasks if t["id"] in leased)
    refusals = "; ".join(f"{count} × {reason}" for reason, count in report["refusals"].items())
    return [
        Figure("agents.polls", sum(answers.values()), "polls", note=f"{answers}"),
        Figure("agents.failed_polls", answers.get("failed", 0), "polls", 0, note=refusals),
        Figure("agents.missed_leases.n200", len(tasks) - len(waits), "tasks", 0, note="of the wide rounds"),
        Figure("agents.lease_p99_ms.n200", waits[int(len(waits) * 0.99)], "ms", note="all leased at once"),
    ]


def job(
    platform: Platform, name: str, dataset: str, *, rounds: int, engine: str, parameters: int, n: int = WORKING
) -> dict[str, datetime]:
    """Run a null job to its end; its tasks, with when each was opened."""
    spec = {
        "name": name,
        "federation_id": platform.federation().id,
        "model": {"name": name},
        "recipe": {"name": "null", "params": {"parameters": parameters}},
        "data": {"dataset": dataset, "label": "y"},
        "rounds": rounds,
        "engine": engine,
        "strategy": {"name": "fedavg", "weighting": "equal"},
        "cohort": {"min": n},
        "evaluation": {"every": 0},
    }
    submitted = platform.client.submit_job(spec)
    ended = platform.client.wait(submitted.id, timeout_s=1800)
    if ended.state != "succeeded":
        raise RuntimeError(f"the job ended {ended.state}: {ended.reason}")
    return {task["id"]: _moment(task["created_at"]) for task in _tasks(platform, submitted.id)}


def _tasks(platform: Platform, job_id: str) -> list[dict[str, Any]]:
    return [
        task
        for round_ in platform.client.rounds(job_id)
        for task in platform.client.round(round_.id).model_dump(mode="json")["tasks"]
    ]


def _leased(platform: Platform) -> Iterator[tuple[str, datetime]]:
    """When each working agent had each lease, by its log."""
    for log in sorted((platform.home / "logs").glob("agent.*.log")):
        for line in log.read_text().splitlines():
            if '"task.leased"' in line:
                event = json.loads(line)
                yield event["task_id"], _moment(event["ts"])


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


@contextmanager
def sampled(platform: Platform, names: Sequence[str]) -> Iterator[dict[str, list[float]]]:
    """Resident megabytes of these processes, every few seconds while the block runs."""
    samples: dict[str, list[float]] = {name: [] for name in names}
    over = threading.Event()

    def sample() -> None:
        while True:
            for name in names:
                samples[name].append(psutil.Process(platform.processes[name].pid).memory_info().rss / 1e6)
            if over.wait(SAMPLE_S):
                return

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def growth(samples: Sequence[float]) -> float:
    """From after the warm-up (a tenth of the time) to the end: medians of a tenth each."""
    tenth = max(1, len(samples) // 10)
    return statistics.median(samples[-tenth:]) - statistics.median(samples[tenth : 2 * tenth] or samples)


def _cpu_s(platform: Platform, name: str) -> float:
    times = psutil.Process(platform.processes[name].pid).cpu_times()
    return float(times.user + times.system)


def _peak_mb(platform: Platform, name: str) -> float:
    status = Path(f"/proc/{platform.processes[name].pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith("VmHWM"))


def _nothing() -> IO[str]:
    raise RuntimeError("the load process has no output")
