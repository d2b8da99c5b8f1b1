"""The demonstration: four hospitals that may not pool their records train one model, from nothing to a comparison.

The data set and the reference training stand in ``examples/hospital`` of the checkout; this module runs the platform.
"""

import importlib.util
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from undersong.client.types import Job, Version
from undersong.errors import UndersongError
from undersong.local import Platform
from undersong.progress import JobProgress, RoundProgress
from undersong.shared.secagg.engines import DEFAULT_ENGINE, engine_facts
from undersong.verify import verify_now

EXAMPLE: Final = Path(__file__).parent.parent / "examples" / "hospital"
ENGINE: Final = (
    f"engine [bold]{DEFAULT_ENGINE}[/]: {engine_facts(DEFAULT_ENGINE).wording.description} "
    "Records never leave a hospital."
)
KILL_IN_ROUND: Final = 3  # one agent is killed in the middle of this training round, on purpose


@dataclass
class Times:
    """How long each part took, in seconds since the demonstration began."""

    began: float = field(default_factory=time.monotonic)
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> float:
        """Note that `name` is done, once; returns when."""
        return self.marks.setdefault(name, time.monotonic() - self.began)


class Demo:
    """One demonstration on a running platform."""

    def __init__(
        self, platform: Platform, console: Console, *, rounds: int, times: Times | None = None, stays: bool = False
    ) -> None:
        self._platform = platform
        self._console = console
        self._rounds = rounds
        self._stays = stays  # whether the platform is there afterwards
        self.times = times or Times()
        self._example = load_example()

    def run(self) -> Job:
        """Enrol, train, compare, print; UndersongError when the job does not succeed."""
        self._console.print(f"platform up in {self.times.mark('up'):.1f} s: {len(self._platform.processes)} processes")
        self._enrol()
        job = self._train()
        version = self._newest(job)
        self._compare(version)
        self._verify(version)
        self._report(job, version)
        return job

    def _enrol(self) -> None:
        hospitals = self._example.HOSPITALS
        for hospital in hospitals:
            own_records = self._example.write_site(hospital, self._platform.home / "data" / hospital)
            self._platform.add_site(hospital, datasets=own_records, policy=EXAMPLE / "policy.yaml")
        self._platform.wait_sites_online(len(hospitals))
        names = ", ".join(hospitals)
        self._console.print(f"{names}: enrolled and online at {self.times.mark('online'):.1f} s")
        self._console.print(ENGINE)

    def _train(self) -> Job:
        client = self._platform.client
        spec: dict[str, Any] = yaml.safe_load((EXAMPLE / "job.yaml").read_text())
        spec |= {"federation_id": self._platform.federation().id, "rounds": self._rounds}
        spec.pop("federation", None)
        job = client.submit_job(spec)
        with RoundBars(self._console) as bars:
            for event in client.follow(job.id, poll_s=0.2):
                if event.type == "round.planned":
                    self.times.mark("first round")
                if event.type == "job.polled":
                    for round_ in bars.seen.take_rounds(client.rounds(job.id)):
                        bars.show(round_)
                elif (changed := bars.seen.take(event)) is not None:
                    bars.show(changed)
                    self._mark(changed)
        job = client.job(job.id)
        self.times.mark("trained")
        if job.state != "succeeded":
            raise UndersongError(
                f"the job is {job.state}: {job.explanation}",
                remedy=f"the services' logs say more: {self._platform.home / 'logs'}",
            )
        return job

    def _mark(self, round_: RoundProgress) -> None:
        if round_.kind != "train" or round_.phase != "collecting":
            return
        if round_.number == 1:
            self.times.mark("training")
        if round_.number == KILL_IN_ROUND and "killed" not in self.times.marks:
            self.times.mark("killed")
            victim = self._example.HOSPITALS[-1]
            self._platform.kill(f"agent.{victim}")
            self._console.print(f"killed the agent of {victim} on purpose (kill -9); the round goes on")

    def _newest(self, job: Job) -> Version:
        if job.version_id is None:
            raise UndersongError(f"job {job.id} succeeded without a model version")
        return self._platform.client.version(job.version_id)

    def _compare(self, version: Version) -> None:
        path = self._platform.home / "federated.safetensors"
        self._platform.client.download(version.id, path)
        table = Table(title="On records that no training saw", title_justify="left")
        for title, justify in (("model", "left"), ("accuracy", "right"), ("AUC", "right")):
            table.add_column(title, justify="right" if justify == "right" else "left")
        for row in self._example.compare(path):
            table.add_row(row.name, f"{row.accuracy:.3f}", f"{row.auc:.3f}")
        self._console.print(table)
        self.times.mark("compared")

    def _verify(self, version: Version) -> None:
        """Check the evidence of the newest version, as anyone could; UndersongError where a check fails."""
        verification = verify_now(version.id, self._platform.client, None)
        failed = [finding for finding in verification.findings if not finding.passed]
        if failed:
            raise UndersongError(f"the evidence does not hold: {failed[0].sentence}")
        passed = len(verification.findings)
        self._console.print(f"receipt verified: {passed} checks over signatures, cohort, survivors, sum and log")
        if self._stays:
            self._console.print(f"  undersong verify {version.id}")

    def _report(self, job: Job, version: Version) -> None:
        marks = self.times.marks
        training_s = marks["trained"] - marks["training"]
        self._console.print(f"model [bold]{job.spec['model']['name']}[/] version {version.number}: {version.id}")
        self._console.print(f"  sha256 {version.content_digest}")
        if self._stays:
            self._console.print(f"dashboard {self._platform.dashboard_url}")
        self._console.print(
            f"first round at {marks['first round']:.1f} s, {self._rounds} rounds of training and evaluation in "
            f"{training_s:.1f} s ({training_s / self._rounds:.2f} s each), all in {marks['compared']:.1f} s"
        )


class RoundBars:
    """A progress bar per round: a step for each site that has answered. Lines, where the output is no terminal."""

    def __init__(self, console: Console) -> None:
        self._plain = not console.is_terminal
        self._console = console
        self.seen = JobProgress()
        self._bars: dict[str, TaskID] = {}
        self._ended: set[str] = set()
        columns = (
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("sites"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=console, disable=self._plain)

    def __enter__(self) -> "RoundBars":
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the finished bars standing."""
        self._progress.stop()

    def show(self, round_: RoundProgress) -> None:
        """Draw a round's present state."""
        if round_.id in self._ended:
            return
        if round_.id not in self._bars:
            self._bars[round_.id] = self._progress.add_task(round_.title, total=round_.cohort, note="")
        self._progress.update(self._bars[round_.id], completed=round_.got, note=round_.note)
        if round_.ended:
            self._ended.add(round_.id)
            self._progress.stop_task(self._bars[round_.id])
            if self._plain:
                self._console.print(f"{round_.title:<18} {round_.got}/{round_.cohort} sites  {round_.note}")


def load_example() -> ModuleType:
    """Return the module examples/hospital/compare.py; UndersongError where there is no checkout."""
    path = EXAMPLE / "compare.py"
    spec = importlib.util.spec_from_file_location("undersong_example_hospital", path) if path.exists() else None
    if spec is None or spec.loader is None:
        raise UndersongError(f"{path} is missing", remedy="run the demo from a checkout of the project: make demo")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
