"""The licences of everything that the platform installs: `docs/licences.md`, written or compared (`--check`).

Reads the metadata of the installed packages, so it needs no network. A licence that is not in ALLOWED, or none at all,
ends with status 1.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "licences.md"
SHIPPED = "embedded"  # the extra that holds every service, the agent and the embedded platform
ALLOWED = frozenset({
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "ISC", "LGPL-3.0-only", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib",
})  # fmt: skip
SAID_OTHERWISE = {  # what packages say that do not name an SPDX identifier
    "MIT License": "MIT",
    "The MIT License (MIT)": "MIT",
    "BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "new BSD": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
}


def closure(extra: str) -> dict[str, Distribution]:
    """Name → what is installed, for the project with this extra and all that it needs here."""
    found: dict[str, Distribution] = {}
    waiting = [("undersong", frozenset({extra}))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[name] = distribution(name)
        waiting += [(normal(need.name), frozenset(need.extras)) for need in _needs(found[name], extras)]
    return {name: found[name] for name in sorted(found)}


def normal(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _needs(package: Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    for text in package.requires or []:
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield need


def licence(package: Distribution) -> str:
    """Return an SPDX expression: what the package says, brought into that form; empty when it says nothing known."""
    told = package.metadata
    if told["License-Expression"]:
        return str(told["License-Expression"])
    classified = [
        line.rsplit(" :: ", 1)[-1] for line in told.get_all("Classifier", []) if line.startswith("License ::")
    ]
    for text in (*classified, str(told["License"] or "").splitlines()[0] if told["License"] else ""):
        if text in ALLOWED or text in SAID_OTHERWISE:
            return SAID_OTHERWISE.get(text, text)
    return ""


def allowed(expression: str) -> bool:
    """Return whether every part that must hold is in the list (of alternatives, one)."""
    parts = re.split(r" AND ", expression.replace("(", "").replace(")", ""))
    return all(any(choice.strip() in ALLOWED for choice in part.split(" OR ")) for part in parts)


def document(packages: Iterable[tuple[str, Distribution]]) -> str:
    """Return the page."""
    lines = [
        "# Licences",
        "",
        "What the platform installs beside itself (Apache-2.0), as each package states it. Written by `make licences`.",
        "",
        "| package | version | licence |",
        "| --- | --- | --- |",
    ]
    for name, package in packages:
        lines.append(f"| {name} | {package.version.split('+')[0]} | {licence(package) or '?'} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write or compare."""
    found = closure(SHIPPED)
    found.pop("undersong")
    refused = [f"{name}: {licence(package) or 'no licence that is known'}" for name, package in found.items()
               if not allowed(licence(package))]  # fmt: skip
    if refused:
        sys.stderr.write("not allowed by deploy/licences.py:\n" + "".join(f"  {line}\n" for line in refused))
        return 1
    page = document(found.items())
    if "--check" not in sys.argv:
        DOCUMENT.write_text(page)
    elif not DOCUMENT.exists() or DOCUMENT.read_text() != page:
        sys.stderr.write("docs/licences.md is not what is installed: make licences\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
