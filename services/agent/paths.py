"""Names of files and settings that are misspellings of those that are there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from shared.names import one_edit


def path_fault(path: Path) -> str | None:
    """Return a sentence where a file is missing beside one whose name is a misspelling of it."""
    if path.exists() or not path.parent.is_dir():
        return None
    beside = [other.name for other in path.parent.iterdir() if _letters(other.name) != _letters(path.name)]
    close = sorted(name for name in beside if one_edit(path.name, name))
    return f"there is no {path}; did you mean {close[0]!r}, which is there?" if close else None


def environment_faults(environment: Mapping[str, str], prefix: str, settings: set[str]) -> list[str]:
    """Return a sentence for every environment variable that is a misspelling of a setting."""
    known = {f"{prefix}{name.upper()}" for name in settings}
    faults = []
    for name in sorted(environment):
        said = name.split("__")[0]
        if name.startswith(prefix) and said not in known:
            close = [right for right in known if one_edit(said.replace("_", ""), right.replace("_", ""))]
            faults += [f"{name} is no setting; did you mean {right!r}?" for right in close[:1]]
    return faults


def _letters(name: str) -> str:
    """A name without its numbers: `policy-1.yaml` is no misspelling of `policy-2.yaml`."""
    return re.sub(r"[0-9]", "", name)
