"""`undersong agent …`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The agent that runs beside a site's data.")


@app.command()
def run(
    config: Annotated[
        Path, typer.Option("--config", exists=True, dir_okay=False, help="agent.yaml, as `site enroll` wrote it.")
    ] = Path("agent.yaml"),
) -> None:
    """Run an agent until it is stopped; it goes on where it was after a restart."""
    arguments = [sys.executable, "-m", "undersong.services.agent", "--config", str(config.resolve())]
    os.execve(sys.executable, arguments, {**os.environ, "PYTHONSAFEPATH": "1"})  # noqa: S606  (our own interpreter)
