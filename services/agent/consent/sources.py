"""The source of a recipe, so that an owner can read what would run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from undersong.recipes.protocol import source_digest
from undersong.services.agent.policy.signers import recipe_files
from undersong.services.agent.settings import AgentSettings
from undersong.shared.files import read_text

_MOST_CHARS = 200_000


def recipe_source(settings: AgentSettings, name: str, digest: str) -> tuple[str, str] | None:
    """Return the file and text of a recipe: a site's own of exactly this code, or the main file of a built-in one.

    None where neither is here: the code was replaced since, or cannot be read.
    """
    try:
        for file in recipe_files(settings.recipes):
            if file.is_file() and source_digest(file) == digest:
                return str(file), read_text(file)[:_MOST_CHARS]
        found = find_spec(f"undersong.recipes.{name}") if name.isidentifier() else None
        if found is not None and found.origin is not None:
            return found.origin, read_text(Path(found.origin))[:_MOST_CHARS]
    except (OSError, UnicodeDecodeError):
        return None
    return None
