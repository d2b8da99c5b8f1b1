"""`undersong up`: the whole platform on this machine."""

import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from undersong.cli import common
from undersong.errors import UndersongError
from undersong.local import Platform
from undersong.local.layout import SERVICES, settings_of
from undersong.shared.names import hint


def up(
    home: Annotated[Path, typer.Option("--home", help="Where its state is kept between runs.")] = Path(".home"),
    stay: Annotated[
        bool, typer.Option("--stay/--no-stay", help="Run until Ctrl-C; --no-stay only proves that it starts.")
    ] = True,
    tls: Annotated[bool, typer.Option("--tls", help="HTTPS only, with an authority of its own.")] = False,
    log_level: Annotated[str, typer.Option("--log-level", help="Of the services' logs.")] = "INFO",
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65_529, help="The coordinator's port; the others follow it.")
    ] = None,
    move: Annotated[bool, typer.Option("--move", help="Choose another port for each one in use.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="SERVICE.SETTING=VALUE, as docs/reference/settings.md names them.")
    ] = None,
) -> None:
    """Start coordinator, aggregator, keys and registry on this machine; other commands then find them.

    The first start takes free loopback ports, later ones the same again: a port in use is an error.
    """
    began = time.monotonic()

    def report(line: str) -> None:
        common.console.print(f"{time.monotonic() - began:5.1f} s  {line}", style="dim", markup=False)

    chosen = _settings(settings or [])
    with Platform(
        home, log_level=log_level, write_profile=True, settings=chosen, tls=tls, port=port, move=move, report=report
    ) as platform:
        federation = platform.federation()
        common.console.print(f"up in {time.monotonic() - began:.1f} s; {len(platform.processes)} processes")
        for service, url in platform.urls.items():
            common.console.print(f"  {service:<12} {url}")
        common.console.print(f"  dashboard    {platform.dashboard_url}")
        common.console.print(f"  token        {platform.home / 'secrets' / 'admin-token'}")
        if tls:
            common.console.print(f"  trust        {platform.profile.ca_file}")
        common.console.print(f"  logs         {platform.home / 'logs'}")
        common.console.print(
            f"federation {federation.name}; other commands find it as --profile {platform.profile_name}"
        )
        if stay:
            common.console.print("Ctrl-C stops it. Next, in another shell: undersong site enroll NAME", style="dim")
            wait_for_signal()
    common.console.print("stopped")


def wait_for_signal() -> None:
    """Block until SIGINT or SIGTERM."""
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    done.wait()


def _settings(words: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return settings by service; raises UndersongError for a service or setting that is not there."""
    chosen: dict[str, dict[str, str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        service, _, setting = name.partition(".")
        if not equals or service not in SERVICES:
            raise UndersongError(
                f"--set {word!r} sets nothing{hint(service, SERVICES)}", remedy="--set coordinator.heartbeat_s=5"
            )
        known = settings_of(service).model_fields
        if setting not in known:
            raise UndersongError(f"no setting of the {service} is called {setting!r}{hint(setting, known)}")
        chosen.setdefault(service, {})[setting] = value
    return chosen
