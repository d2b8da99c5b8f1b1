"""Names of files that are misspellings of those that are there."""

from __future__ import annotations

import re
from pathlib import Path

from undersong.shared.names import one_edit


def path_fault(path: Path) -> str | None:
    """Return a sentence where a file is missing beside one whose name is a misspelling of it."""
    if path.exists() or not path.parent.is_dir():
        return None
    beside = [other.name for other in path.parent.iterdir() if _letters(other.name) != _letters(path.name)]
    close = sorted(name for name in beside if one_edit(path.name, name))
    return f"there is no {path}; did you mean {close[0]!r}, which is there?" if close else None


def _letters(name: str) -> str:
    """Return a name without its numbers: `policy-1.yaml` is no misspelling of `policy-2.yaml`."""
    return re.sub(r"[0-9]", "", name)
