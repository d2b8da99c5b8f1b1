"""Whether the device that agent.yaml names is there: asked of PyTorch itself, in a process that ends.

And whether several processes may train together: asked of the kernel, in the same way.
"""

from __future__ import annotations

import json
import subprocess
import sys

from undersong.services.agent.settings import AgentSettings, ConfigError

PROBE = """
import json, sys
try:
    import torch
except ImportError as error:
    print(json.dumps({"missing": str(error)}))
    sys.exit()
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "built": torch.version.cuda is not None or torch.version.hip is not None,
    "cuda": cuda,
    "mps": torch.backends.mps.is_available(),
}))
"""
LOOPBACK_PROBE = """
from undersong.services.agent.runner.limits import leave_network, open_loopback
print(leave_network() and open_loopback())
"""
CHECKED_ON: tuple[str, ...] = ()
"""The GPUs on which `python -m tests.gpu.check` has passed."""
PROBE_S = 300.0  # an import from a cold disk under load


def lacking(settings: AgentSettings) -> str | None:
    """Why recipes could not use the device that is named, in one sentence; None where they can.

    `auto` and `cpu` always can. Containers bring their own PyTorch, and their engine refuses a GPU that is not there.
    """
    if settings.device in ("auto", "cpu") or settings.runner == "docker":
        return None
    done = subprocess.run(  # noqa: S603  (our own interpreter)
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        timeout=PROBE_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return f"PyTorch does not start (exit code {done.returncode}): {done.stderr.strip()[-200:]}"
    if "missing" in found:
        return f"PyTorch cannot be imported: {found['missing']}"
    if found[settings.device]:
        return None
    if settings.device == "cuda" and not found["built"]:
        return f"PyTorch {found['version']} is built without CUDA"
    return f"PyTorch {found['version']} finds no such device here"


def alone(settings: AgentSettings) -> str | None:
    """Why one process would train where `processes` asks for several, in one sentence; None where they can."""
    if settings.processes == 1 or settings.runner == "docker" or not settings.isolate_network:
        return None
    done = subprocess.run(  # noqa: S603  (our own interpreter)
        [sys.executable, "-c", LOOPBACK_PROBE],
        capture_output=True,
        text=True,
        timeout=PROBE_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.stdout.strip() == "True":
        return None
    return "the kernel gives no network namespace, in which they could talk to each other and to nothing else"


def check_device(settings: AgentSettings) -> None:
    """Raise ConfigError where the device that agent.yaml names is not there: no task shall fail for it later."""
    if (reason := lacking(settings)) is not None:
        raise ConfigError(f"device: {settings.device}: {reason}; {DEVICE_REMEDY}")


DEVICE_REMEDY = "write device: auto or cpu, or install the GPU's driver and a PyTorch for it"
