"""Which of the site's own recipes are signed, and by whose key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import structlog

from undersong.shared.identity.signed_recipes import read_recipe_signature
from undersong.shared.ids import Digest
from undersong.shared.recipe_source import source_digest

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def recipe_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files of the site's own recipes, those of folders in order of their names."""
    return [file for path in paths for file in (sorted(path.glob("*.py")) if path.is_dir() else [path])]


def signed_recipes(paths: Iterable[Path]) -> Mapping[str, Collection[Digest]]:
    """Return the digests of own recipes by the public keys that signed them; no recipe is imported.

    A signature that cannot be read, or is of other code, is one line in the log and vouches for nothing.
    """
    found: dict[str, list[Digest]] = defaultdict(list)
    for file in recipe_files(paths):
        try:
            signature = read_recipe_signature(file)
            if signature is None:
                continue
            digest = source_digest(file)
        except (OSError, ValueError) as error:
            log.warning("recipe.signature_unreadable", recipe=str(file), reason=str(error))
            continue
        signers = signature.signers_of(digest)
        if not signers:
            log.warning("recipe.signature_void", recipe=str(file), reason="no signature is of this code")
        for key in signers:
            found[key].append(digest)
    return found
