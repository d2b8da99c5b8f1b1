"""What this machine's kernel can close to recipes, found out by a process that shuts itself in."""

import json
import subprocess
import sys

PROBE_S = 30.0


def open_to_recipes() -> list[str]:
    """Return what stays open with `runner: process`: files, network, calls; raises `OSError` if it cannot be told."""
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "undersong.services.agent.runner.confine"],
            capture_output=True, text=True, timeout=PROBE_S, check=True,
        )  # fmt: skip
        closed = json.loads(answer.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        raise OSError(f"the probe did not answer: {type(error).__name__}") from error
    return sorted(name for name, state in closed.items() if state == "open" and name != "private")
