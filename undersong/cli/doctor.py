"""`undersong doctor`: says what is wrong with a set-up and how to fix it."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from undersong.cli import common
from undersong.client import Client
from undersong.errors import ProfileError
from undersong.profile import load_profile

if TYPE_CHECKING:
    from undersong.doctor import Finding

MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "fault": "[red]✗[/]"}


def doctor(
    profile: common.ProfileName = None,
    home: Annotated[
        Path | None, typer.Option("--home", help="Look into an embedded platform's folder, running or not.")
    ] = None,
    agent: Annotated[
        Path | None, typer.Option("--agent", help="Look at one site's agent, beside its agent.yaml.")
    ] = None,
    as_json: common.AsJson = False,
) -> None:
    """Look at this machine and at the platform; every finding comes with its cause and its remedy."""
    findings = []
    for finding in _examined(profile, home, agent):
        findings.append(finding)
        if not as_json:
            _print(finding)
    faults = sum(finding.state == "fault" for finding in findings)
    warnings = sum(finding.state == "warning" for finding in findings)
    if as_json:
        common.print_json([asdict(finding) for finding in findings])
    else:
        common.console.print(f"{len(findings)} checks, {warnings} warnings, {faults} faults")
    if faults:
        raise typer.Exit(1)


def _examined(name: str | None, home: Path | None, agent: Path | None) -> "Iterator[Finding]":
    """Yield what was asked for; without anything named, this machine and the platform that is known here."""
    # Not at the top: this imports the agent, for which the other commands would wait.
    from undersong.doctor import examine_agent, examine_home, examine_machine

    if agent is not None:
        common.quiet_logs()
        yield from examine_agent(agent)
    if home is not None:
        yield from examine_machine(home)
        yield from examine_home(home)
    if agent is None and home is None:
        yield from _known_platform(name)


def _known_platform(name: str | None) -> "Iterator[Finding]":
    from undersong.doctor import Finding, examine_home, examine_machine, examine_platform

    try:
        profile = load_profile(name)
        own = Path(profile.home) if profile.home else None
        yield from examine_machine(own or Path.cwd())
        if own is not None and own.is_dir():
            yield from examine_home(own)
        with Client(profile) as client:
            yield from examine_platform(client)
    except ProfileError as error:
        yield Finding("fault", "platform", error.message, error.remedy or "")


def _print(finding: "Finding") -> None:
    common.console.print(f"{MARKS[finding.state]} [bold]{escape(finding.subject)}[/]: {escape(finding.detail)}")
    if finding.remedy:
        common.console.print(f"    → {escape(finding.remedy)}", markup=True)
