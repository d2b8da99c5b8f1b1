"""The embedded platform: every service as a real process of this machine, on SQLite and an embedded Valkey.

with Platform() as platform:
    platform.add_site("north", datasets={...})
    platform.client.submit_job({...})
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import httpx

from undersong.client import Client
from undersong.client.types import Federation, Site
from undersong.errors import StartError, UnreachableError
from undersong.local.forks import Forks
from undersong.local.layout import HELPER, ROLES, SERVICES, Layout, base_environment, service_command
from undersong.local.patience import Patience
from undersong.local.process import Running, Supervised
from undersong.local.sites import SiteFolder, existing_sites
from undersong.profile import LOCK_FILE, STARTING, STOPPING, Profile, remove_local_profile, save_local_profile
from undersong.shared.files import open_regular, read_text
from undersong.shared.identity.transport import trust

IDLE_S: Final = 60.0  # a process that fails is noticed at once; this is for one that waits in vain
BOOTSTRAP_S: Final = 900.0
DYING_S: Final = 15.0  # what a killed platform left behind stops within this
BOOTSTRAPPED: Final = ("keys", "coordinator")


class Platform:
    """All services as supervised processes, with their state in one folder.

    Without `home` the folder is temporary and deleted at the end; after a failure its logs are kept. `settings` are
    extra settings per service ({"coordinator": {"heartbeat_s": "1"}}). With `tls` every service speaks HTTPS only, with
    certificates by an authority of this folder. With `write_profile` other commands find it, by the name in
    `profile_name`. `port` is the coordinator's, and the others follow it; `move` chooses another for each that is
    taken. `report` is told, in a few words, what has started. `forks`, whose owner closes it, forks the processes of
    several platforms. A process that dies is started again.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        log_level: str = "INFO",
        settings: Mapping[str, Mapping[str, str]] | None = None,
        write_profile: bool = False,
        tls: bool = False,
        port: int | None = None,
        move: bool = False,
        report: Callable[[str], None] = lambda _: None,
        forks: Forks | None = None,
    ) -> None:
        self._temporary = home is None
        self.home = (home or Path(tempfile.mkdtemp(prefix="undersong-"))).resolve()
        self.processes: dict[str, Supervised] = {}
        self._log_level = log_level
        self._settings = settings or {}
        self._write_profile = write_profile
        self._tls, self._port, self._move, self._report = tls, port, move, report
        self.profile_name = ""
        self._lock: IO[str] | None = None
        self._forks, self._own_forks = forks, forks is None
        self._layout: Layout | None = None
        self._client: Client | None = None
        self._federation: Federation | None = None

    # life

    def __enter__(self) -> Self:
        """Start everything; StartError names the process that did not start, with the end of its log."""
        try:
            self.start()
        except BaseException as error:
            self._stop_after(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the whole tree; after a failure the logs stay."""
        self._stop_after(error)

    def _stop_after(self, error: BaseException | None) -> None:
        failed = isinstance(error, Exception)
        self.stop(keep_logs=failed)
        if failed and self._temporary and error is not None:
            error.add_note(f"the logs are kept in {self.home / 'logs'}")

    def start(self) -> None:
        """Start everything and wait until every service is ready."""
        self._lock = _hold(self.home)
        self._note(STARTING)
        wait_s = DYING_S if _ended_badly(self._lock) else 0.0
        self._layout = Layout.prepare(self.home, tls=self._tls, port=self._port, move=self._move, wait_s=wait_s)
        self._report(f"starting in {self.home}")
        if self._own_forks and sys.platform == "linux":  # elsewhere system libraries do not survive a fork
            self._forks = Forks(self.home, self._layout.log("nursery"))
        self._start("valkey", self._layout.valkey_command(), base_environment(), forked=False)
        with ThreadPoolExecutor(len(BOOTSTRAPPED)) as pool:
            list(pool.map(self._bootstrap, BOOTSTRAPPED))
        self._report("keys and first tokens are there")
        for role in ROLES:
            for service in SERVICES:
                self._start_service(service, role)
        self._start_service("keys", HELPER, environment=HELPER)
        self._wait_ready()
        self._client = Client(self.profile)
        if self._write_profile:
            save_local_profile(self.profile)
        for folder in existing_sites(self.home):
            folder.write_addresses(self.urls, self.profile.ca_file)
            self._start_agent(folder)

    def stop(self, *, keep_logs: bool = False) -> None:
        """Stop agents first, then services, then Redis; forget the profile; delete a temporary folder.

        With `keep_logs` the temporary folder's logs stay.
        """
        if self._lock is not None:
            self._note(STOPPING)
        agents = [name for name in self.processes if name.startswith("agent.")]
        services = [name for name in self.processes if name not in agents and name != "valkey"]
        for group in (agents, services, ["valkey"]):
            running = [self.processes[name] for name in group if name in self.processes]
            for process in running:
                process.ask_to_stop()
            for process in running:
                process.stop()
        self.processes.clear()
        if self._own_forks and self._forks is not None:
            self._forks.close()
            self._forks = None
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._lock is not None:  # else the folder is another's, and so is its profile
            if self._write_profile:
                remove_local_profile(str(self.home))
            self._lock.truncate(0)  # the process ids of a run that ended well are not looked for
            self._lock.close()
            self._lock = None
        if self._temporary:
            _clear(self.home, keep="logs" if keep_logs else "")

    # use

    @property
    def client(self) -> Client:
        """A client that acts as the first administrator."""
        if self._client is None:
            raise StartError("the platform is not running")
        return self._client

    @property
    def urls(self) -> dict[str, str]:
        """Service name → base url."""
        return self._running().urls()

    @property
    def redis_url(self) -> str:
        """The URL of Redis."""
        return self._running().redis_url()

    @property
    def dashboard_url(self) -> str:
        """Where the dashboard is."""
        return f"{self.urls['coordinator']}/dashboard"

    @property
    def profile(self) -> Profile:
        """Addresses and first tokens, for a client in any process."""
        layout = self._running()
        return Profile(
            **{f"{service}_url": url for service, url in layout.urls().items()},
            helper_url=layout.url(HELPER),
            token=_secret(layout.bootstrap / "admin-token"),
            operator_token=_secret(layout.bootstrap / "operator-token"),
            ca_file=str(layout.ca_file or ""),
            home=str(self.home),
        )

    def renew_certificates(self) -> None:
        """Make new keys and certificates for TLS; the services take them up by themselves."""
        self._running().certify(anew=True)

    def federation(self, name: str = "federation") -> Federation:
        """Return the platform's federation; made under this name when there is none yet."""
        if self._federation is None:
            found = self.client.federations()
            self._federation = found[0] if found else self.client.create_federation(name)
        return self._federation

    def add_site(
        self,
        name: str,
        *,
        datasets: Mapping[str, Any] | Path | None = None,
        policy: Mapping[str, Any] | Path | None = None,
        agent: Mapping[str, Any] | None = None,
        start: bool = True,
    ) -> Site:
        """Make a site, enrol its agent and start it.

        `datasets` and `policy` are the documents of datasets.yaml and policy.yaml, or such files; without `datasets`
        its folder in `sites` has a datasets.yaml already, and without `policy` the agent writes its own default
        (everything that is installed and declared). `agent`: more settings of agent.yaml.
        """
        federation = self.federation()
        site = self.client.create_site(federation.id, name)
        token = self.client.create_enrolment_token("site", site.id, federation.id).token
        folder = SiteFolder(self.home / "sites" / name)
        folder.write(
            self.urls, token=token, datasets=datasets, policy=policy, agent=agent or {}, ca_file=self.profile.ca_file
        )
        if start:
            self._start_agent(folder)
        return site

    def wait_sites_online(self, count: int, timeout_s: float = IDLE_S) -> None:
        """Block until this many agents have told what data they have, for as long as the agents make progress.

        StartError shows the log of an agent that died, or says who is missing once the agents have done nothing for
        `timeout_s`, or have worked very long in vain.
        """
        online: set[str] = set()
        patience = Patience(lambda: self._pids("agent."), idle_s=timeout_s)
        while True:
            now = {site.name for site in self.client.sites() if site.profile is not None}
            if len(now) >= count:
                return
            self._raise_for_failed(only="agent.")
            if now - online:
                online = now
                patience.progressed()
            if patience.over():
                missing = [name for name in self.processes if name.startswith("agent.") and name[6:] not in online]
                tail = self.processes[missing[0]].log_tail() if missing else ""
                raise StartError(
                    f"only {len(online)} of {count} agents are online, and the others do not come on "
                    f"({', '.join(missing)}):\n{tail}",
                    remedy=f"see {self.home / 'logs'}",
                )
            time.sleep(0.1)

    def kill(self, name: str) -> None:
        """`kill -9` one process, for example "aggregator.worker"; it is started again at once."""
        self.processes[name].kill()

    def halt(self, name: str) -> None:
        """Stop one process and leave it stopped until `resume`."""
        self.processes[name].stop()

    def resume(self, name: str) -> None:
        """Start a process that `halt` stopped."""
        self.processes[name].start()

    # parts

    def _note(self, state: str) -> None:
        """Let other commands find this platform, and say that it cannot be used yet, or any more."""
        if self._write_profile:
            self.profile_name = save_local_profile(Profile(home=str(self.home), state=state))

    def _running(self) -> Layout:
        if self._layout is None:
            raise StartError("the platform is not running")
        return self._layout

    def _environment(self, service: str) -> dict[str, str]:
        extra = self._settings.get(service)
        return self._running().environment(service, log_level=self._log_level, extra=extra)

    def _start(self, name: str, command: list[str], env: Mapping[str, str], *, forked: bool = True) -> None:
        """Start and supervise a process; where it is `forked`, `command` is `python -m MODULE ARGUMENTS`."""
        log = self._running().log(name)

        def fork() -> Running | None:
            forks, (module, *arguments) = self._forks, command[2:]
            return forks.spawn(module, arguments, env=env, cwd=self.home, log=log) if forks else None

        process = Supervised(name, command, env=env, cwd=self.home, log=log, fork=fork if forked else None)
        self.processes[name] = process
        process.start()

    def _start_service(self, service: str, role: str, environment: str | None = None) -> None:
        env = self._environment(environment or service)
        self._start(f"{service}.{role}", service_command(service, role), env)

    def _start_agent(self, folder: SiteFolder) -> None:
        self._start(f"agent.{folder.name}", folder.command(), {**base_environment(), "OMP_NUM_THREADS": "1"})

    def _bootstrap(self, service: str) -> None:
        layout, arguments = self._running(), ["bootstrap", "--out", str(self._running().bootstrap)]
        env, log = self._environment(service), layout.log(f"{service}.bootstrap")
        forked = self._forks and self._forks.spawn(
            f"undersong.services.{service}", arguments, env=env, cwd=self.home, log=log
        )
        if forked:
            code = forked.wait(BOOTSTRAP_S)
        else:
            with log.open("ab") as output:
                command = [sys.executable, "-m", f"undersong.services.{service}", *arguments]
                done = subprocess.run(command, env=env, cwd=self.home, stdout=output, stderr=output, check=False)
            code = done.returncode
        if code != 0:
            raise StartError(f"{service} bootstrap failed:\n{log.read_text()[-2000:]}")

    def _wait_ready(self) -> None:
        waiting, layout = [*SERVICES, HELPER], self._running()
        patience = Patience(lambda: self._pids(""), idle_s=IDLE_S)
        with httpx.Client(timeout=2.0, verify=trust(layout.ca_file, self.urls.values()), trust_env=False) as http:
            while waiting:
                for service in [service for service in waiting if _is_ready(http, layout.url(service))]:
                    waiting.remove(service)
                    patience.progressed()
                    self._report(f"{service} is ready")
                self._raise_for_failed()
                if waiting and patience.over():
                    tail = self.processes["keys.helper" if waiting[0] == HELPER else f"{waiting[0]}.api"].log_tail()
                    remedy = f"see {self.home / 'logs'}"
                    raise StartError(f"{', '.join(waiting)} will not become ready:\n{tail}", remedy=remedy)
                if waiting:
                    time.sleep(0.05)

    def _pids(self, prefix: str) -> list[int]:
        return [p.pid for name, p in self.processes.items() if name.startswith(prefix) and p.pid is not None]

    def _raise_for_failed(self, only: str = "") -> None:
        for name, process in self.processes.items():
            if process.failed and name.startswith(only):
                raise StartError(f"{name} does not start (exit code {process.exit_code}):\n{process.log_tail()}")


def _is_ready(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(f"{url}/health/ready").is_success
    except httpx.TransportError:
        return False


def _secret(path: Path) -> str:
    if not path.exists():
        raise UnreachableError(f"{path} is missing", remedy="delete the platform's folder and start it again")
    return read_text(path).strip()


def _hold(home: Path) -> IO[str]:
    """Keep a second platform out of this folder; the file then holds our process id."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.fdopen(open_regular(home / LOCK_FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT), "a+")
    for _ in range(5):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.05)  # a command may only have looked whether a platform runs here
        else:
            return lock
    lock.close()
    raise StartError(f"a platform is already running in {home}", remedy="stop it, or give another --home")


def _ended_badly(lock: IO[str]) -> bool:
    """Return whether the last run was killed, so that its processes may still be stopping; notes the present run."""
    lock.seek(0)
    before = lock.read().strip()
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return before != ""


def _clear(home: Path, keep: str) -> None:
    """Delete a folder, all of it or (`keep`) but for one part."""
    for path in home.iterdir() if keep and home.exists() else ():
        if path.name == keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if not keep:
        shutil.rmtree(home, ignore_errors=True)
