"""The digest of a recipe's source code, which sites' policies allow and scientists sign."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from undersong.shared.files import read_bytes
from undersong.shared.ids import Digest


def source_digest(*files: Path) -> Digest:
    """SHA-256 over the names and bytes of a recipe's source files: what a site's policy allows; raises OSError."""
    return digest_of_sources({path: read_bytes(path) for path in files})


def digest_of_sources(sources: Mapping[Path, bytes]) -> Digest:
    """Return the same of files whose bytes were read before, by their paths."""
    running = hashlib.sha256(b"undersong/recipe/1\0")
    for path in sorted(sources, key=lambda p: p.name):
        data = sources[path]
        running.update(f"{path.name}\0{len(data)}\0".encode() + data)
    return Digest(running.hexdigest())
