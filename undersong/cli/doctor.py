"""`undersong doctor`: says what is wrong with a set-up and how to mend it."""

from dataclasses import asdict
from pathlib import Path

import typer
from rich.markup import escape

from undersong.cli import common
from undersong.client import Client
from undersong.doctor import Finding, examine_machine, examine_platform
from undersong.errors import ProfileError
from undersong.profile import load_profile

MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "fault": "[red]✗[/]"}


def doctor(profile: common.ProfileName = None, as_json: common.AsJson = False) -> None:
    """Look at this machine and at the platform; every finding comes with its remedy."""
    findings = examine(profile, echo=not as_json)
    faults = sum(finding.state == "fault" for finding in findings)
    warnings = sum(finding.state == "warning" for finding in findings)
    if as_json:
        common.print_json([asdict(finding) for finding in findings])
    else:
        common.console.print(f"{len(findings)} checks, {warnings} warnings, {faults} faults")
    if faults:
        raise typer.Exit(1)


def examine(profile_name: str | None, *, echo: bool) -> list[Finding]:
    """All findings, printed as they come when `echo`."""
    findings: list[Finding] = []

    def note(finding: Finding) -> None:
        findings.append(finding)
        if echo:
            _print(finding)

    try:
        profile = load_profile(profile_name)
    except ProfileError as error:
        for finding in examine_machine(Path.cwd()):
            note(finding)
        note(Finding("fault", "platform", error.message, error.remedy or ""))
        return findings
    for finding in examine_machine(Path(profile.home or Path.cwd())):
        note(finding)
    with Client(profile) as client:
        for finding in examine_platform(client):
            note(finding)
    return findings


def _print(finding: Finding) -> None:
    common.console.print(f"{MARKS[finding.state]} [bold]{escape(finding.subject)}[/]: {escape(finding.detail)}")
    if finding.remedy:
        common.console.print(f"    → {escape(finding.remedy)}", markup=True)
