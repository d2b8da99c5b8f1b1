"""Published vectors of PINE, Prio3 and their XOFs, read where they lie.

They are not part of this repository. Set UNDERSONG_VECTORS to a folder that has ``pine`` (junyechen1996/draft-chen-
cfrg-vdaf-pine, ``poc/test_vec/01``) and ``vdaf`` (cfrg/draft-irtf-cfrg-vdaf, ``test_vec`` and ``test_vec/vdaf``), or
put it at ``../shared/vectors`` beside the project.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("UNDERSONG_VECTORS") or PROJECT.parent / "shared" / "vectors")
MISSING = f"no published vectors at {FOLDER}: set UNDERSONG_VECTORS to a folder with pine/ and vdaf/"


def names(pattern: str) -> list[Any]:
    """Parameters for a test over all files that fit, or one that skips."""
    found = sorted(FOLDER.glob(pattern))
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))]
    return [pytest.param(path, id=path.stem) for path in found]


def read(path: Path) -> dict[str, Any]:
    """One file."""
    vector: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return vector
