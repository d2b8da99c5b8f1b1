"""The dashboard's static files, read once at import and served from memory: no path of a request touches the disk."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import Request, Response

from undersong.shared.errors import NotFound

_FOLDER: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file and the digest that names its content."""

    body: bytes
    type: str
    digest: str


def _load() -> dict[str, Asset]:
    found = {}
    for path in sorted(_FOLDER.rglob("*")):
        if path.suffix in _TYPES:
            body = path.read_bytes()
            digest = hashlib.sha256(body).hexdigest()[:16]
            found[path.relative_to(_FOLDER).as_posix()] = Asset(body, _TYPES[path.suffix], digest)
    return found


ASSETS: Final = _load()


def address(root: str, name: str) -> str:
    """Return a file's address, which changes with the content, so that browsers may cache it without limit."""
    return f"{root}/static/{name}?v={ASSETS[name].digest}"


def answer(request: Request, name: str) -> Response:
    """Return one static file; raises NotFound."""
    asset = ASSETS.get(name)
    if asset is None:
        raise NotFound(f"There is no file {name!r}.")
    etag = f'"{asset.digest}"'
    kept = request.query_params.get("v") == asset.digest
    headers = {"ETag": etag, "Cache-Control": "public, max-age=31536000, immutable" if kept else "no-cache"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.body, media_type=asset.type, headers=headers)
