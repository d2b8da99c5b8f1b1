"""What does not depend on any platform: interpreter, packages, compiled kernels, disk."""

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from undersong.containment import open_to_recipes
from undersong.doctor.findings import Finding, disk
from undersong.shared.kernels import MODULES
from undersong.shared.secagg.engines import ENGINES, names_of

PACKAGES: Final = ("fastapi", "sqlalchemy", "redis", "obstore", "torch")
NUMBA_CACHE: Final = "NUMBA_CACHE_DIR"


def examine_machine(folder: Path) -> Iterator[Finding]:
    """Interpreter, packages, disk."""
    yield Finding("ok", "python", platform.python_version())
    yield packages(PACKAGES, "pip install 'undersong[embedded]'")
    yield kernels()
    yield disk(folder)
    yield walls()


def walls() -> Finding:
    """Return what this machine's kernel can close to recipes that run in a process."""
    try:
        left = open_to_recipes()
    except OSError as error:
        return Finding("warning", "recipes' walls", str(error), "pip install 'undersong[agent]'")
    if left:
        remedy = "a kernel with Landlock and seccomp, or runner: docker in agent.yaml"
        return Finding("warning", "recipes' walls", f"open to recipes on this machine: {', '.join(left)}", remedy)
    return Finding("ok", "recipes' walls", "files, network and system calls are closed to recipes on this machine")


def packages(names: tuple[str, ...], remedy: str) -> Finding:
    """Return whether these are installed."""
    missing = [name for name in names if version_of(name) is None]
    if missing:
        return Finding("warning", "packages", f"not installed: {', '.join(missing)}", remedy)
    return Finding("ok", "packages", ", ".join(f"{name} {version_of(name)}" for name in names))


def kernels() -> Finding:
    """Return whether the compiled parts of the engines are there, and compiled."""
    if version_of("numba") is None:
        detail = f"numba is not installed: {_engines()} cannot run here"
        return Finding("warning", "kernels", detail, "pip install 'undersong[verified]'")
    waiting = [name for name in MODULES if not _compiled(name)]
    if waiting and not os.environ.get(NUMBA_CACHE):
        detail = f"not compiled yet: {', '.join(waiting)}; the first round compiles them, which takes seconds"
        return Finding("warning", "kernels", detail, "python -m undersong.shared.kernels")
    return Finding("ok", "kernels", "compiled" if not waiting else f"kept in {os.environ[NUMBA_CACHE]}")


def _engines() -> str:
    """Return which engines need compiled parts: ``engines one and another``."""
    needing = [facts for facts in ENGINES.values() if facts.kernels]
    return f"engine{'s' if len(needing) > 1 else ''} {names_of(needing)}"


def _compiled(module: str) -> bool:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        return False
    source = Path(found.origin)
    return any(source.parent.glob(f"__pycache__/{source.stem}.*.nbi"))


def version_of(name: str) -> str | None:
    """Return the installed version of a distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
