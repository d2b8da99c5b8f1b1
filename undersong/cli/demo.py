"""`undersong demo`: the four hospitals, from nothing to a compared model."""

from pathlib import Path
from typing import Annotated

import typer

from undersong.cli import common
from undersong.cli.platform import wait_for_signal


def demo(
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=500, help="Rounds of training.")] = 20,
    stay: Annotated[bool, typer.Option("--stay", help="Keep the platform and its dashboard open afterwards.")] = False,
    home: Annotated[
        Path | None, typer.Option("--home", help="Keep the platform's state here (default: a temporary folder).")
    ] = None,
) -> None:
    """Start everything, let four hospitals train together on real records, and compare the result."""
    from undersong.demo import Demo, Times
    from undersong.local import Platform

    times = Times()

    def report(line: str) -> None:
        common.console.print(line, style="dim", markup=False)

    with Platform(home, write_profile=stay, report=report) as platform:
        Demo(platform, common.console, rounds=rounds, times=times, stays=stay).run()
        if stay:
            common.console.print(f"\nThe dashboard is at [bold]{platform.dashboard_url}[/]; sign in with this token:")
            common.console.print(f"  {platform.profile.token}", soft_wrap=True)
            common.console.print("Ctrl-C stops everything.", style="dim")
            wait_for_signal()
    common.console.print("stopped cleanly")
