"""A model version as a file: streamed, continued after a cut, and checked by its digest before it appears.

Generated from `aio/download.py` by `make client`: change that file.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import httpx

from undersong.client import wire
from undersong.errors import UndersongError
from undersong.shared.partial import UNSATISFIABLE, PartialFile


def download(http: httpx.Client, url: str, token: str, digest: str, target: Path) -> None:
    """Write the content behind `url`, whose SHA-256 is `digest`, into `target`.

    A cut download continues where it stopped (RFC 9110, Range with If-Range), in this call and in the next one: what
    has come lies in ``TARGET.DIGEST.partial`` until it is complete. Raises ApiError for a refusal, UnreachableError
    when nothing comes any more, UndersongError for bytes of another digest or a file that cannot be written.
    """
    partial = PartialFile(target.with_name(f"{target.name}.{digest[:16]}.partial"), digest)
    headers = {"authorization": f"Bearer {token}", "accept-encoding": "identity"}
    try:
        for afresh in (False, True):  # what an earlier call left may be damaged; what comes afresh may not
            if afresh:
                partial.discard()
            kept = partial.size
            _fetch(http, url, headers, partial)
            if partial.is_whole():
                partial.become(target)
                return
            if not kept:
                break
        partial.discard()
    except OSError as error:
        fault = f"{error.filename or partial.path}: {error.strerror or error}"
        raise UndersongError(f"the model cannot be stored: {fault}", remedy="another file: --out FILE") from error
    raise UndersongError(f"{url}: the bytes received do not have the registered digest", remedy="undersong doctor")


def _fetch(http: httpx.Client, url: str, headers: Mapping[str, str], partial: PartialFile) -> None:
    """Ask for what is missing until all of it is there; as long as bytes come, attempts are not counted."""
    failures = 0
    while True:
        before = partial.size
        response: httpx.Response | None = None
        try:
            response = _once(http, url, headers, partial)
            if response is None:
                return
        except httpx.TransportError as error:
            failures = 0 if partial.size > before else failures + 1
            if failures >= wire.ATTEMPTS or wire.distrusts(error):
                raise wire.unreachable(url, error) from error
        else:
            failures += 1
            if failures >= wire.ATTEMPTS:
                wire.raise_for_problem(response)
        time.sleep(wire.delay_s(failures, response))


def _once(http: httpx.Client, url: str, headers: Mapping[str, str], partial: PartialFile) -> httpx.Response | None:
    """Make one request that adds to the file: None when it ended well, else an answer after which to try again."""
    wanted = partial.headers()
    with http.stream("GET", url, headers={**headers, **wanted}) as response:
        if response.status_code in wire.TRY_AGAIN:
            response.read()
            return response
        if wanted and response.status_code == UNSATISFIABLE:
            return None
        if not response.is_success:
            response.read()
            wire.raise_for_problem(response)
        with partial.taking(response.status_code, response.headers.get("content-range", "")) as file:
            for chunk in response.iter_bytes():  # as they come: a block that a cut leaves unfilled would be lost
                file.write(chunk)
            _flush(file)
    return None


def _flush(file: BinaryIO) -> None:
    """Write what is buffered, and wait until the disk has it."""
    file.flush()
    os.fsync(file.fileno())
