"""A view of plain values, and the pages over it: what a small federation looks like in the middle of its work."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from tests.services.coordinator.dashboard.events import EVENTS
from tests.services.coordinator.dashboard.members import PlainMembers
from tests.services.coordinator.dashboard.models import PlainModels
from tests.services.coordinator.dashboard.sweeps import make_sweep
from tests.shared.statistics.hospitals import SITES, federate, hospital
from tests.shared.transparency.sheets import exact, noisy, sheet
from undersong.services.coordinator.dashboard import Dashboard, router
from undersong.services.coordinator.dashboard.audit_views import (
    Audit,
    CheckItem,
    DatasheetPage,
    Exposure,
    JobExposure,
    Key,
    KeysPage,
    SpentItem,
)
from undersong.services.coordinator.dashboard.job_log import PROBLEMS, lines
from undersong.services.coordinator.dashboard.view_model import RoundPage
from undersong.services.coordinator.dashboard.views import (
    ComparisonItem,
    DatasetItem,
    DeadTask,
    FaultItem,
    JobItem,
    JobPage,
    LogPage,
    Measure,
    NowPage,
    OperationsPage,
    PartItem,
    PublishedVersion,
    RoundItem,
    SiteItem,
    StepItem,
    TaskItem,
    TaskMove,
    TimelinePage,
)
from undersong.services.coordinator.domain.findings import JobInvalid
from undersong.services.coordinator.repository.jobs import JobFilter
from undersong.services.coordinator.views.job_comparisons import ComparedJob, CurveView, JobComparisonView, SettingView
from undersong.services.coordinator.views.jobs import JobVerdict
from undersong.services.coordinator.views.schedules import ScheduleView
from undersong.services.coordinator.views.sweeps import SweepView
from undersong.shared.errors import FieldError, NotFound, TooMany
from undersong.shared.identity.sealing import Sealer
from undersong.shared.statistics.results import Result
from undersong.shared.transparency.datasheet_words import sections, title_of
from undersong.shared.wire.manifest import RoundKind

TOKEN = "ust_test-token"
ROOT = "/dashboard"
NAMES = ("Cleveland", "Hungary", "Switzerland", "Long Beach")
SCORES = ((0.612, 0.70), (0.741, 0.81), (0.782, 0.86), (0.803, 0.88), (0.811, 0.89))


def make_site(index: int, now: datetime) -> SiteItem:
    name = NAMES[index]
    seen = (timedelta(seconds=4), timedelta(seconds=9), timedelta(minutes=14), None)[index]
    heart = DatasetItem("heart", "csv", (303, 294, 123, 200)[index], 13, "disease")
    return SiteItem(
        f"site_01k{index}", name, f"{name} hospital", "fed_01hearts", False, index < 2,
        None if seen is None else now - seen,
        None if seen is None else "0.1.0", "process", (heart,) if seen else (), ("tabular", "null"),
        4, 16 * 2**30, ("NVIDIA L4",) if index == 0 else (),
    )  # fmt: skip


def make_task(index: int, now: datetime, state: str = "done") -> TaskItem:
    task = TaskItem(f"site_01k{index}", NAMES[index], state, "upload", 1.0, 1, now - timedelta(seconds=3))
    if state == "leased":
        return replace(task, phase="train", progress=0.6)
    if state == "rejected":
        trace = ('  File "recipes/tabular.py", line 88, in train', "ValueError: column 'chol' holds text")
        return replace(
            task, code="recipe-failed", message="The recipe failed on column 'chol'.", trace=trace, attempts=3
        )
    return task


def make_moves(round_: RoundItem, site: str) -> list[TaskMove]:
    """A quick site, a slow one, one whose recipe failed once, one that is still away in the round under way."""
    index, began = int(site[-1]), dict(round_.phase_times)["collect"]
    takes = timedelta(seconds=0.3 + 0.25 * index)

    def move(state: str, after: timedelta, attempt: int = 1, code: str | None = None) -> TaskMove:
        return TaskMove(round_.id, site, state, began + after, attempt, code, "It <failed> at chol." if code else None)

    if round_.open and index == 3:
        return []
    moves = [move("leased", timedelta(seconds=0.1))]
    if index == 2 and round_.number % 2:
        moves += [move("open", takes / 2, 1, "recipe-failed"), move("leased", takes / 2 + timedelta(seconds=0.1), 2)]
    return moves if round_.open and index == 2 else [*moves, move("done", takes, 2 if len(moves) > 1 else 1)]


FAULTS = (
    FaultItem("Cleveland", "wrong-share", "it sent other shares than it was dealt"),
    FaultItem("Hungary", "dealer-at-fault", "it dealt shares that do not belong to its secrets"),
    FaultItem("Long Beach", "shares-disputed", "1 of at most 2 tolerated: <site_01k1> cannot use the shares that it "
              "dealt, or say so. Which of them is wrong is not known, and no site is excluded", disputed=True),
)  # fmt: skip


def make_round(job: str, number: int, kind: str, began: datetime, state: str = "published") -> RoundItem:
    opened, last, ended = (began + timedelta(seconds=s) for s in (0.08, 1.2 + number * 0.13, 1.5 + number * 0.14))
    times = (("prepare", began), ("collect", opened), ("sum", last))
    open_ = state == "collecting"
    return RoundItem(
        id=f"rnd_{kind}{number}", job_id=job, number=number, attempt=1, kind=kind, state=state, reason=None,
        engine="sealed", got=2 if open_ else 4, min_cohort=3, target=4, created_at=began,
        deadline=began + timedelta(minutes=10), ended_at=None if open_ else ended,
        phase_times=times[:2] if open_ else times,
        version_id=f"ver_{number}" if kind == "train" and not open_ else None, manifest_digest="5e" * 32, epoch=1,
        tasks=tuple(make_task(i, began, "leased" if open_ and i > 1 else "done") for i in range(4)),
        cohort=tuple(f"site_01k{i}" for i in range(4)), faults=FAULTS if (kind, number) == ("train", 3) else (),
        steps=() if open_ else tuple(
            StepItem(step, 4, opened + (last - opened) * part) for step, part in (("advertise", 0.1), ("upload", 0.8))
        ),
        clipped=number if kind == "train" and not open_ else None,
    )  # fmt: skip


AUDITED = Audit(
    "rnd_train3", "ver_3", "5e" * 32,
    (
        CheckItem("authority", "passed", "The federation's authority is the one that was pinned."),
        CheckItem("protection", "caution", "Weak: the aggregator could see <every> single update."),
    ),
)  # fmt: skip


OPERATING = OperationsPage(
    outbox=3, outbox_age_s=0.4, open_rounds=1, overdue_s=0.0, open_tasks=2, leased_tasks=2, sites_recent=4,
    sites_silent=1, database_bytes=48_000_000, redis=True, epoch=1, published=118, failed=2, cancelled=1,
    typical_s=1.4, slow_s=7.9, late_share=0.021, may_act=True,
    dead=(
        DeadTask("task_01", "job_01running", "rnd_train6", "Nordklinikum <i>", "train", 5, "child-died",
                 "The recipe's process was killed: out of memory?", None, True),
        DeadTask("task_02", "job_02failed", "rnd_train2", "south", "train", 5, "timeout", None, None, False),
    ),
)  # fmt: skip


def make_parts(now: datetime) -> tuple[PartItem, ...]:
    """One site that did all, one that was away, one that refuses, one that others accuse."""
    return (
        PartItem("Cleveland", 6, 6, 0, 0, 0, (("wrong-share", 1),), now - timedelta(seconds=4),
                 recent=tuple((f"train {n}", "done") for n in range(1, 7))),
        PartItem("Hungary", 6, 5, 1, 0, 0, (), now - timedelta(seconds=9), "round-ended",
             "no answer before the round ended", "rnd_train2",
             (("train 1", "done"), ("train 2", "expired"), ("train 3", "done"), ("train 4", "open"))),
        PartItem("Switzerland", 6, 0, 0, 6, 0, (), None, "recipe-error", "The recipe failed on column <chol>.",
             "rnd_train5"),
        PartItem("Long Beach", 5, 4, 0, 0, 1, (("shares-disputed", 2),), now - timedelta(seconds=5)),
    )  # fmt: skip


GROUPS = {"women": {"accuracy": 0.81, "auc": 0.85, "examples": 194.0}, "men <i>": None}
OWN = {"north <b>": {"auc": 0.9, "examples": 150.0}, "south": {"auc": 0.7, "examples": 120.0}}
SPREAD = {"auc": {"mean": 0.8, "deviation": 0.1, "worst": 0.7, "worst_site": "south"}}
CURVES = {"calibration": [[0.12, 0.1, 150.0], [0.61, 0.72, 60.0]], "precision_recall": [[0.5, 0.8, 0.75]]}


def make_schedules() -> list[ScheduleView]:
    """One that goes on, one that was refused and is paused."""
    at = datetime(2026, 11, 2, 2, 30, tzinfo=UTC)
    facts = {"federation_id": "fed_01hearts", "cron": "30 2 * * mon", "timezone": "Europe/Berlin", "overlap": True,
             "words": "At 02:30 on Monday", "document": {}, "created_by": "ada", "created_at": at}  # fmt: skip
    refused = {"at": at, "outcome": "refused", "job_id": None, "reason": "/cohort/min: 2 sites, and 3 are needed <b>"}
    done = {"at": at, "outcome": "submitted", "job_id": "job_03done", "reason": None}
    return [
        ScheduleView.model_validate(facts | {"id": "sch_1", "name": "weekly <i>", "state": "active", "last": done,
                                             "upcoming": [at + timedelta(days=7)]}),
        ScheduleView.model_validate(facts | {"id": "sch_2", "name": "old", "state": "paused", "last": refused,
                                             "upcoming": []}),
    ]  # fmt: skip


@dataclass
class FakeViewModel:
    """What the pages show, as fields that a test may change."""

    now_: datetime
    name: str = "ada"
    may_steer: bool = True
    all_jobs: list[JobItem] = field(default_factory=list)
    all_rounds: list[RoundItem] = field(default_factory=list)
    all_sites: list[SiteItem] = field(default_factory=list)
    all_comparisons: list[ComparisonItem] = field(default_factory=list)
    all_releases: list[PublishedVersion] = field(default_factory=list)
    plain_models: PlainModels = field(default_factory=PlainModels)
    all_schedules: list[ScheduleView] = field(default_factory=lambda: make_schedules())
    all_sweeps: list[SweepView] = field(default_factory=lambda: [make_sweep()])
    degraded: tuple[str, ...] = ()
    steered: list[tuple[str, str]] = field(default_factory=list)
    beat: int = 7
    chosen: JobFilter | None = None
    audited: Audit = AUDITED
    answers: tuple[Result, ...] = ()
    operating: OperationsPage = OPERATING
    decided: list[tuple[str, str]] = field(default_factory=list)

    async def now(self) -> NowPage:
        current = {r.job_id: r for r in self.all_rounds if r.open}
        return NowPage(tuple(self.all_jobs), current, tuple(self.all_sites),
                       self.all_releases[0] if self.all_releases else None, self.degraded)  # fmt: skip

    async def jobs(self, after: str | None, chosen: JobFilter) -> tuple[list[JobItem], str | None]:
        self.chosen = chosen
        return [job for job in self.all_jobs if (chosen.name or "") in job.name], None

    async def job(self, job_id: str) -> JobPage:
        job = next((j for j in self.all_jobs if j.id == job_id), None)
        if job is None:
            raise NotFound(f"There is no job {job_id}.")
        rounds = tuple(r for r in self.all_rounds if r.job_id == job_id)
        done = sum(r.kind == "train" and not r.open for r in rounds)
        measures = tuple(
            Measure(n + 1, {"accuracy": a, "auc": b, "loss": 0.69 - 0.06 * n}, GROUPS, CURVES, OWN, SPREAD)
            for n, (a, b) in enumerate(SCORES[:done])
        )
        answers = self.answers if job.kind == "statistics" else ()
        newest = measures[-1] if measures else None
        return JobPage(job, rounds, newest, self.may_steer, answers, make_parts(self.now_))

    async def document(self, job_id: str) -> dict[str, Any]:
        return dict(next(job for job in self.all_jobs if job.id == job_id).spec)

    async def placed(self, document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "federation_id": "fed_01hearts"}

    async def validate(self, document: dict[str, Any]) -> JobVerdict:
        wrong = [("/rounds", "at least 1 <b>")] if not isinstance(document.get("rounds"), int) else []
        wrong += [("/data/label", "this field is required")] if "data" not in document else []
        if wrong:
            raise JobInvalid("The job has errors.", errors=[FieldError(path, message) for path, message in wrong])
        return JobVerdict(features=["age", "chol"], label="disease", columns=[], unused=[], recipe_digest="ab" * 32,
                          weight_unit=1, sites=["site_01k0", "site_01k1"], warnings=[])  # fmt: skip

    async def submit(self, document: dict[str, Any]) -> JobItem:
        await self.validate(document)
        self.all_jobs.append(replace(self.all_jobs[-1], id="job_05new", name=str(document["name"])))
        return self.all_jobs[-1]

    async def compare(self, job_ids: list[str]) -> JobComparisonView:
        known = {job.id: job for job in self.all_jobs}
        for job_id in job_ids:
            if job_id not in known:
                raise NotFound(f"There is no job {job_id}.")
        return compared([known[job_id] for job_id in job_ids])

    async def measures(self, job_id: str) -> tuple[Measure, ...]:
        return tuple(
            Measure(n + 1, {"accuracy": a, "auc": b, "loss": 0.69 - 0.06 * n}) for n, (a, b) in enumerate(SCORES)
        )

    async def timeline(self, job_id: str, before: str | None) -> TimelinePage:
        page = await self.job(job_id)
        rounds = page.rounds[-4:] if before is None else page.rounds[:2]
        names = {f"site_01k{at}": name for at, name in enumerate(NAMES)}
        moves = tuple(move for each in rounds for site in names for move in make_moves(each, site))
        return TimelinePage(page.job, rounds, moves, names, before is None, before)

    async def log(self, job_id: str, before: int | None, *, problems: bool) -> LogPage:
        names = {f"site_01k{at}": name for at, name in enumerate(NAMES)}
        events = [each for each in EVENTS if not problems or each.type in PROBLEMS]
        events = [each for each in events if before is None or each.number < before]
        return LogPage((await self.job(job_id)).job, lines(events[:5], names), len(events) > 5, before)

    async def steer(self, job_id: str, action: str) -> None:
        self.steered.append((job_id, action))
        state = {"pause": "paused", "resume": "running", "cancel": "cancelled"}[action]
        self.all_jobs = [replace(j, state=state) if j.id == job_id else j for j in self.all_jobs]

    @property
    def members(self) -> PlainMembers:
        return PlainMembers(self.now_)

    async def schedules(self) -> list[ScheduleView]:
        return self.all_schedules

    async def steer_schedule(self, schedule_id: str, action: str) -> None:
        self.steered.append((schedule_id, action))

    async def sweeps(self) -> list[SweepView]:
        return self.all_sweeps

    async def sweep(self, sweep_id: str) -> SweepView:
        return next(each for each in self.all_sweeps if each.id == sweep_id)

    async def cancel_sweep(self, sweep_id: str) -> None:
        self.steered.append((sweep_id, "cancel"))

    async def round(self, round_id: str) -> RoundPage:
        round_ = next((r for r in self.all_rounds if r.id == round_id), None)
        if round_ is None:
            raise NotFound(f"There is no round {round_id}.")
        return RoundPage(round_, next(j for j in self.all_jobs if j.id == round_.job_id))

    async def comparisons(self) -> list[ComparisonItem]:
        return self.all_comparisons

    async def sites(self) -> list[SiteItem]:
        return self.all_sites

    @property
    def models(self) -> PlainModels:
        return self.plain_models

    async def releases(self) -> list[PublishedVersion]:
        return self.all_releases

    async def audit(self, subject: str) -> Audit:
        if subject != "rnd_train3":
            raise NotFound(f"There is no evidence about {subject}.")
        return self.audited

    async def operations(self) -> OperationsPage:
        return replace(self.operating, may_act=self.may_steer)

    async def decide(self, task_id: str, act: str) -> None:
        self.decided.append((task_id, act))
        self.operating = replace(self.operating, dead=())

    async def keys(self) -> KeysPage:
        return KeysPage(
            tuple(Key(name, kind, "7a" * 32, self.now_ - timedelta(days=age), self.now_ + timedelta(days=90 - age),
                      self.now_ if name == "south" else None, earlier)
                  for name, kind, age, earlier in (("coordinator", "service", 3, 0), ("keys", "service", 70, 2),
                                                   ("Nordklinikum <i>", "site", 12, 1), ("south", "site", 40, 0)))
        )  # fmt: skip

    async def privacy(self) -> list[Exposure]:
        noisy = (SpentItem("site", 20, 3.21, 1e-6), SpentItem("record", 2, None, 1e-5))
        jobs = (
            JobExposure("job_01running", "Heart <script>", noisy[:1], 2),
            JobExposure("job_04figures", "Figures <i>", noisy[1:], 3),
        )
        released = Exposure("fed_01hearts", "heart <script>", 3, 27, 3, ("pairwise", "sealed"), 5, noisy, jobs)
        return [released, Exposure("fed_01hearts", "lungs", 1, 4, 4, ("sealed",), 4)]

    async def datasheet(self, version_id: str) -> DatasheetPage:
        if version_id != "ver_5":
            raise NotFound(f"There is no version {version_id}, or not for you.")
        made = sheet(noisy(), noisy(), exact(RoundKind.EVALUATE))
        return DatasheetPage(version_id, title_of(made), sections(made), "5e" * 32, '{"signed": true}', made.made_at)

    async def pulse(self) -> str:
        return str(self.beat)

    async def wait(self, timeout_s: float) -> None:
        await asyncio.sleep(min(timeout_s, 0.05))


@dataclass
class FakeSource:
    """Opens one view for one token."""

    only: FakeViewModel
    token: str = TOKEN

    async def view(self, token: str) -> FakeViewModel | None:
        return self.only if token == self.token else None


def compared(jobs: list[JobItem]) -> JobComparisonView:
    """Jobs that learned at different speeds; the last of several never evaluated."""
    made = []
    for place, job in enumerate(jobs):
        count = 0 if place == len(jobs) - 1 > 0 else 12 - place
        auc = [round(0.9 - 0.02 * place - 0.35 * 0.8**at, 6) for at in range(count)]
        curve = CurveView(
            rounds=list(range(1, count + 1)),
            seconds=[41.5 * (place + 1) * (at + 1) for at in range(count)],
            update_bytes=[1_250_000 * 4 * (at + 1) for at in range(count)],
            metrics={"auc": auc, "loss": [round(1 - each, 6) for each in auc]},
        )
        made.append(
            ComparedJob(
                id=job.id, name=job.name, federation_id=job.federation_id, kind=job.kind, state=job.state,
                engine=job.engine, created_by="ada", created_at=job.created_at, finished_at=job.ended_at,
                seconds=41.5 * (place + 1) * count, trained=count, sites=4.0 if count else None,
                update_bytes=5_000_000 * count if count else None, epsilon=2.0 if place == 1 else None,
                delta=1e-6 if place == 1 else None, metrics={"auc": auc[-1], "loss": 1 - auc[-1]} if auc else {},
                curve=curve,
            )
        )  # fmt: skip
    settings = [
        SettingView(path="/recipe/params/epochs", values=[place + 1 for place in range(len(jobs))]),
        SettingView(path="/data/features", values=[["age", "chol <b>"], *[None] * (len(jobs) - 1)]),
    ]
    return JobComparisonView(jobs=made, settings=settings if len(jobs) > 1 else [], metrics=["auc", "loss"])


QUERIES = (
    {"query": "mean", "columns": ["age", "chol"]},
    {"query": "histogram", "column": "age", "edges": [20, 35, 45, 50, 55, 60, 70, 76, 80]},
    {"query": "quantiles", "column": "chol", "probabilities": [0.1, 0.5, 0.9]},
    {"query": "contingency", "columns": ["cp", "target"], "values": {"target": [0, 1]}},
    {"query": "contingency", "columns": ["sex"]},
    {"query": "correlation", "columns": ["age", "thalach", "trestbps", "chol"]},
    {"query": "regression", "target": "thalach", "features": ["age", "sex"]},
    {"query": "logistic_regression", "target": "target", "features": ["age", "sex"]},
    {"query": "cox_regression", "time": "age", "event": "target", "features": ["thalach", "sex"]},
    {"query": "kaplan_meier", "time": "age", "event": "target", "until": 80.0, "steps": 40, "group": "sex"},
    {"query": "k_means", "columns": ["age", "thalach"], "iterations": 5},
    {"query": "mean", "columns": ["ca"], "name": "one <b> hospital's"},
    {"query": "correlation", "columns": ["ca", "age"]},
)


@cache
def answers() -> tuple[Result, ...]:
    """Every kind of answer, of the example's hospitals; `ca` is withheld."""
    rows = [hospital(name) for name in SITES]
    for site in rows[1:]:
        site.values[:, [column.name for column in site.columns].index("ca")] = np.nan
    return tuple(federate(rows, *QUERIES, min_cell=20))


@dataclass
class FakeDoor:
    """A limiter without a database; `test_signins.py` tries the real one."""

    tries: int = 0
    over: set[str] = field(default_factory=set)

    async def admit(self, address: str) -> None:
        if self.tries >= 10:
            raise TooMany("Wait 15 minutes, then try again.", retry_after_s=900)

    async def failed(self, address: str) -> None:
        self.tries += 1

    async def succeeded(self, address: str) -> None:
        self.tries = 0

    async def end(self, session_id: str, until: datetime) -> None:
        self.over.add(session_id)

    async def ended(self, session_id: str) -> bool:
        return session_id in self.over


@pytest.fixture
def view() -> FakeViewModel:
    """Four hospitals and three jobs: one that runs, one that failed, one that is done."""
    now = datetime.now(UTC)
    began = now - timedelta(minutes=2)
    jobs = [
        JobItem("job_01running", "Heart disease, four hospitals", "fed_01hearts", "running", None, "heart-risk",
            "tabular 1", "heart", "fedavg, by examples", "sealed", 5, 12, began, None, None, "ver_5",
            owner="ada", tags=("nightly", "sweep:depth"),
            spec={"name": "Heart disease, four hospitals", "rounds": 12, "recipe": {"name": "tabular"}}),
        JobItem("job_02failed", "Nightly refresh", "fed_01hearts", "failed", "quorum", "heart-risk", "tabular 1",
            "heart", "fedadam, by examples", "sealed", 2, 10, now - timedelta(hours=9), now - timedelta(hours=8)),
        JobItem("job_03done", "First try <b>", "fed_01hearts", "succeeded", "completed", "heart-first",
            "tabular 1", "heart", "fedavg, equal", "sealed", 8, 8, now - timedelta(days=1), now - timedelta(hours=23),
            None, "ver_99"),
        JobItem("job_04figures", "Figures <i>", "fed_01hearts", "succeeded", "completed", "", "mean, histogram",
            "heart", "", "pairwise", 9, 9, now - timedelta(days=2), now - timedelta(days=2), kind="statistics"),
    ]  # fmt: skip
    rounds = [make_round("job_01running", 0, "statistics", began)]
    rounds += [make_round("job_01running", n, "train", began + timedelta(seconds=9 * n)) for n in range(1, 6)]
    bad = replace(make_task(2, now, "rejected"))
    rounds[3] = replace(rounds[3], got=3, tasks=(*rounds[3].tasks[:2], bad, rounds[3].tasks[3]))
    rounds += [make_round("job_01running", 6, "train", now - timedelta(seconds=2), "collecting")]
    releases = [
        PublishedVersion("ver_5", "heart-risk", "job_01running", "Heart disease, four hospitals", "rnd_train5", 5, 4,
                now - timedelta(seconds=20), {"accuracy": 0.811, "auc": 0.89}),
        PublishedVersion("ver_4", "heart-risk", "job_01running", "Heart disease, four hospitals", "rnd_train4", 4, 4,
                now - timedelta(seconds=29), {"accuracy": 0.803, "auc": 0.88}),
    ]  # fmt: skip
    return FakeViewModel(
        now,
        all_jobs=jobs,
        all_rounds=rounds,
        all_sites=[make_site(i, now) for i in range(4)],
        all_releases=releases,
        answers=answers(),
    )


@pytest.fixture(scope="session")
def pages() -> FastAPI:
    """The pages alone, without the rest of the coordinator; each test gives them what they show."""
    made = FastAPI()
    made.include_router(router)
    return made


@pytest.fixture
def app(pages: FastAPI, view: FakeViewModel, tmp_path: Path) -> FastAPI:
    """The pages with the example's hospitals and jobs."""
    made = pages
    sealer = Sealer.ensure(tmp_path / "seal-key")
    made.state.dashboard = Dashboard(
        FakeSource(view), FakeDoor(), sealer, lambda: datetime.now(UTC), "http://localhost:7001", False
    )
    return made


@pytest.fixture
async def stranger(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that is not signed in."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture
async def browser(stranger: httpx.AsyncClient) -> httpx.AsyncClient:
    """A browser that is signed in."""
    answer = await stranger.post(f"{ROOT}/login", data={"token": "ust_test-token", "next": f"{ROOT}/sites"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"{ROOT}/sites")
    return stranger


async def csrf(browser: httpx.AsyncClient) -> str:
    """Return the mark that a form of this session carries."""
    found = re.search(r'name="csrf" value="([^"]+)"', (await browser.get(ROOT)).text)
    assert found
    return found[1]
