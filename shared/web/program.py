"""The command line of a service: serve HTTP, work, migrate, change keys, and the commands of that service alone."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic

from fastapi import FastAPI

from undersong.shared.database.migrations import migrate
from undersong.shared.faults import arm
from undersong.shared.files import check_writable
from undersong.shared.queues import worker_loop
from undersong.shared.queues.running import Loop
from undersong.shared.telemetry.logs import configure_logging
from undersong.shared.telemetry.metrics import serve_metrics
from undersong.shared.telemetry.traces import configure_tracing
from undersong.shared.web.failures import explained
from undersong.shared.web.rotation import new_seal_key, rotate_identity
from undersong.shared.web.server import EXIT_BAD_USE, serve
from undersong.shared.web.settings import S, ServiceSettings, load_settings

Action = Callable[[S], None]


@dataclass(frozen=True)
class Command(Generic[S]):
    """A command beside `api`, `worker` and `migrate`.

    `run` does the work; a command that writes files is `writes`, and takes their folder as a second argument (--out).
    `migrates` brings the schema to its head first, whatever the settings say.
    """

    help: str
    run: Action[S] | None = None
    writes: Callable[[S, Path], None] | None = None
    migrates: bool = False


SHARED_COMMANDS: Final[Mapping[str, Command[Any]]] = {
    "rotate-identity": Command("get a new key and certificate before the old one expires", rotate_identity),
    "new-seal-key": Command("encrypt secrets at rest with a new key; the one before still opens", new_seal_key),
}
"""Of every service that keys enrols."""


@dataclass(frozen=True)
class Program(Generic[S]):
    """One deployable: its settings, its API, its worker where it has one, and its own commands by name.

    `name` is the service in logs, traces and injected faults; `package` is its folder, where that has another name;
    `migrate` is the command that brings its schema up to date, where that is not ``… <name> migrate``.
    """

    name: str
    settings: type[S]
    build_app: Callable[[S], FastAPI]
    run_worker: Callable[[S], Loop] | None = None
    commands: Mapping[str, Command[S]] = field(default_factory=dict)
    package: str = ""
    migrate: str = ""

    def main(self, arguments: Sequence[str] | None = None, *, prog: str = "", epilog: str = "") -> None:
        """Read the command and the environment, and run the command; bad usage or settings end with status 2."""
        chosen = self._parser(prog or f"python -m undersong.services.{self.name}", epilog).parse_args(arguments)
        settings = load_settings(self.settings)
        configure_logging(self.name, settings.log_level, json=settings.log_json)
        configure_tracing(self.name, settings.otel_endpoint)
        arm(self.package or f"{self.name}.{chosen.command}")
        try:
            self.run(chosen.command, settings, getattr(chosen, "out", None))
        except Exception as error:
            said = explained(error, settings, self.migrate or f"python -m undersong.services.{self.name} migrate")
            if said is None:
                raise
            sys.stderr.write(f"{said}\n")
            raise SystemExit(EXIT_BAD_USE) from None

    def run(self, command: str, settings: S, out: Path | None = None) -> None:
        """Run one command with these settings."""
        own = self.commands.get(command)
        if out is not None:
            check_writable(out / "any-file")
        if isinstance(settings, ServiceSettings):
            self._prepare(settings, command, migrates=own is not None and own.migrates)
        if command == "api":
            self._serve(settings)
        elif command == "worker" and self.run_worker is not None:
            worker_loop(self.run_worker(settings))
        elif own is not None and own.run is not None:
            own.run(settings)
        elif own is not None and own.writes is not None and out is not None:
            own.writes(settings, out)

    def _prepare(self, settings: ServiceSettings, command: str, *, migrates: bool) -> None:
        """Make the service's folder, bring its schema up to date where that is due, and offer a worker's metrics."""
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        if command == "migrate" or settings.migrate_on_start or migrates:
            revision = migrate(settings.database, self.package or self.name)
            if command == "migrate":
                sys.stdout.write(f"schema {revision}\n")
        if command == "worker" and settings.worker_metrics_port is not None:
            serve_metrics(settings.worker_metrics_port, settings.host)

    def _serve(self, settings: S) -> None:
        serve(
            self.build_app(settings),
            settings.host,
            settings.port,
            limits=settings.limits,
            proxies=settings.trusted_proxies,
            tls_file=settings.tls_file,
        )

    def listed(self) -> list[tuple[str, str, bool]]:
        """Return every command with its help, and whether it writes files (--out)."""
        worker = [("worker", "run the background work", False)] if self.run_worker is not None else []
        schema = ("migrate", "bring the database's schema up to date; safe when several start at once", False)
        migrates = [schema] if issubclass(self.settings, ServiceSettings) else []
        own = [(name, command.help, command.writes is not None) for name, command in self.commands.items()]
        return [("api", "serve HTTP", False), *worker, *migrates, *own]

    def _parser(self, prog: str, epilog: str) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(prog=prog, description=f"The {self.name} service.", epilog=epilog)
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        for name, help_text, writes in self.listed():
            own = commands.add_parser(name, help=help_text)
            if writes:
                own.add_argument("--out", type=Path, required=True, help="folder for the files it writes (0600)")
        return parser
