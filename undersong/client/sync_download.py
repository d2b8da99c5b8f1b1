"""A model version as a file: streamed, continued after a cut, and checked by its digest before it appears.

Generated from `aio_download.py` by `make client`: change that file.
"""

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

import httpx

from undersong.client import wire
from undersong.errors import UndersongError

_BLOCK: Final = 1 << 20
_PARTIAL: Final = httpx.codes.PARTIAL_CONTENT
_UNSATISFIABLE: Final = httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE


def download(http: httpx.Client, url: str, token: str, digest: str, target: Path) -> None:
    """Write the content behind `url`, whose SHA-256 is `digest`, into `target`.

    A cut download continues where it stopped (RFC 9110, Range with If-Range), in this call and in the next one: what
    has come lies in ``TARGET.DIGEST.partial`` until it is complete. Raises ApiError for a refusal, UnreachableError
    when nothing comes any more, UndersongError for bytes of another digest or a file that cannot be written.
    """
    partial = target.with_name(f"{target.name}.{digest[:16]}.partial")
    headers = {"authorization": f"Bearer {token}", "accept-encoding": "identity"}
    try:
        for afresh in (False, True):  # what an earlier call left may be damaged; what comes afresh may not
            if afresh:
                _remove(partial)
            kept = _size(partial)
            _fetch(http, url, headers, digest, partial)
            if _digest(partial) == digest:
                partial.replace(target)
                return
            if not kept:
                break
        _remove(partial)
    except OSError as error:
        fault = f"{error.filename or partial}: {error.strerror or error}"
        raise UndersongError(f"the model cannot be stored: {fault}", remedy="another file: --out FILE") from error
    raise UndersongError(f"{url}: the bytes received do not have the registered digest", remedy="undersong doctor")


def _fetch(http: httpx.Client, url: str, headers: Mapping[str, str], digest: str, partial: Path) -> None:
    """Ask for what is missing until all of it is there; as long as bytes come, attempts are not counted."""
    failures = 0
    while True:
        before = _size(partial)
        response: httpx.Response | None = None
        try:
            response = _once(http, url, headers, digest, partial)
            if response is None:
                return
        except httpx.TransportError as error:
            failures = 0 if _size(partial) > before else failures + 1
            if failures >= wire.ATTEMPTS or wire.distrusts(error):
                raise wire.unreachable(url, error) from error
        else:
            failures += 1
            if failures >= wire.ATTEMPTS:
                wire.raise_for_problem(response)
        time.sleep(wire.delay_s(failures, response))


def _once(
    http: httpx.Client, url: str, headers: Mapping[str, str], digest: str, partial: Path
) -> httpx.Response | None:
    """Make one request that adds to the file: None when it ended well, else an answer after which to try again."""
    have = _size(partial)
    wanted = {"range": f"bytes={have}-", "if-range": f'"{digest}"'} if have else {}
    with http.stream("GET", url, headers={**headers, **wanted}) as response:
        if response.status_code in wire.TRY_AGAIN:
            response.read()
            return response
        if have and response.status_code == _UNSATISFIABLE:
            return None  # all of it is there, or more: the digest says
        if not response.is_success:
            response.read()
            wire.raise_for_problem(response)
        starts = response.headers.get("content-range", "").startswith(f"bytes {have}-")
        goes_on = have > 0 and response.status_code == _PARTIAL and starts
        with _opened(partial, append=goes_on) as file:
            for chunk in response.iter_bytes(_BLOCK):
                file.write(chunk)
            _flush(file)
    return None


def _opened(path: Path, *, append: bool) -> BinaryIO:
    return path.open("ab" if append else "wb")


def _flush(file: BinaryIO) -> None:
    """Write what is buffered, and wait until the disk has it."""
    file.flush()
    os.fsync(file.fileno())


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
