"""Run tests under every supported Python that is installed here: `make pythons` (ARGS=... for pytest).

The versions are those that pyproject.toml names. That of the project's own environment is tried there; each other one
gets one in build/pythons, with all that tests need but PyTorch, whose builds are large. A version that is not
installed is left out, and said so. Status 1 when a version fails.
"""

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "build" / "pythons"
LEFT_OUT: Final = frozenset({"torch"})
TESTS: Final = ("tests/packaging", "tests/undersong", "tests/shared", "tests/contracts")
VERSION: Final = "Programming Language :: Python :: 3."


def versions(project: dict[str, Any]) -> list[str]:
    """Return what is supported, oldest first: 3.11, …"""
    return [line.rpartition(" ")[2] for line in project["classifiers"] if line.startswith(VERSION)]


def needs(project: dict[str, Any], extra: str = "dev") -> Iterator[str]:
    """Yield the requirements of an extra and of those that it names, without the project itself."""
    if extra == "dev":
        yield from project["dependencies"]
    for line in project["optional-dependencies"][extra]:
        inner = re.fullmatch(r"undersong\[(.+)\]", line)
        if inner:
            for name in inner[1].split(","):
                yield from needs(project, name)
        elif re.split(r"[^\w-]", line)[0] not in LEFT_OUT:
            yield line


def interpreter(version: str) -> str | None:
    """Return a Python of this version: by its name on the path, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for found in (f"python{version}", *map(str, sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True))):
        try:
            said = subprocess.run([found, "-V"], capture_output=True, text=True, check=False)  # noqa: S603
        except OSError:
            continue
        if said.stdout.startswith(f"Python {version}."):
            return found
    return None


def environment(version: str, python: str, wanted: list[str]) -> str:
    """Make the version's environment, again only when what it needs has changed; return its Python."""
    folder = FOLDER / version
    made, stamp = str(folder / "bin" / "python"), folder / ".installed"
    digest = hashlib.sha256("\n".join([*wanted, (ROOT / "constraints.txt").read_text()]).encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)  # noqa: S603
        pip = [made, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), *wanted], check=True)  # noqa: S603
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)], check=True)  # noqa: S603
        stamp.write_text(digest)
    return made


def main(arguments: list[str]) -> int:
    """Try each version; print one line for each at the end."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted, told = sorted(set(needs(project))), {}
    for version in versions(project):
        own = version == f"{sys.version_info.major}.{sys.version_info.minor}"
        python = sys.executable if own else interpreter(version)
        if python is None:
            told[version] = f"left out: there is no python{version} on the path"
            continue
        try:
            made = python if own else environment(version, python, wanted)
        except subprocess.CalledProcessError as error:
            told[version] = f"failed: its packages could not be installed (status {error.returncode})"
            continue
        command = [made, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "not docker and not browser"]
        done = subprocess.run([*command, *(arguments or TESTS)], cwd=ROOT, check=False)  # noqa: S603
        told[version] = "passed" if done.returncode == 0 else f"failed (pytest's status {done.returncode})"
    sys.stdout.writelines(f"python {version}: {words}\n" for version, words in told.items())
    return 1 if any(words.startswith("failed") for words in told.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
