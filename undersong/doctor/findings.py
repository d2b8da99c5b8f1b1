"""The form of what the doctor says, and what several of its examinations share."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from shlex import quote
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import httpx
from cryptography import x509

from undersong.client.wire import distrusts
from undersong.errors import UndersongError
from undersong.shared.files import open_regular
from undersong.shared.identity.transport import proxy_of

State = Literal["ok", "warning", "fault"]

LEAST_FREE_BYTES: Final = 2 * 2**30  # a job with a large model fills less than this within an hour
NO_SPACE_BYTES: Final = 64 * 2**20  # below it nothing is stored any more (undersong.shared.blobs.local)
MOST_SKEW_S: Final = 60.0  # signed requests are refused at 300 s
EXPIRES_SOON: Final = timedelta(days=14)
RENEWAL: Final = "docs/operations.md, TLS (`docker compose run --rm secrets`)"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `remedy` is empty only where it is fine."""

    state: State
    subject: str
    detail: str
    remedy: str = ""


def open_database(file: Path) -> closing[sqlite3.Connection]:
    """Open an SQLite file to be read; raises sqlite3.DatabaseError for what is no file, too."""
    try:
        os.close(open_regular(file))  # the library would wait for a pipe
    except OSError as error:
        raise sqlite3.DatabaseError(error.strerror or type(error).__name__) from None
    return closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True))


def one_line(error: object) -> str:
    """Return what went wrong, without line breaks."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


def guarded(subject: str, examine: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what is found, or that it could not be looked at."""
    try:
        yield from examine()
    except UndersongError as error:
        yield Finding("fault", subject, error.message, error.remedy or "undersong doctor, once the services are ready")


def unreachable(subject: str, url: str, error: Exception) -> Finding:
    """Why nothing answers at an address."""
    said = str(error) or type(error).__name__
    if distrusts(error):
        cause, remedy = _distrusted(said)
        return Finding("fault", subject, f"{url}: its TLS certificate {cause}", remedy)
    if "SSL" in said or "TLS" in said.upper().split():
        return Finding("fault", subject, f"{url} does not speak TLS ({said})", "write http:// or https:// as it is")
    if (proxy := proxy_of(url)) is not None and isinstance(error, httpx.ProxyError | httpx.ConnectError):
        remedy = "correct HTTPS_PROXY (and its name and password), or name the host in NO_PROXY"
        return Finding("fault", subject, f"the proxy {proxy} does not lead to {url} ({said})", remedy)
    if isinstance(error, httpx.RemoteProtocolError):
        return Finding("fault", subject, f"at {url} something else listens ({said})", _another_port(url))
    if "refused" in said:
        return Finding("fault", subject, f"nothing listens at {url}", f"start it, or correct the address {subject}_url")
    return Finding(
        "fault", subject, f"{url} does not answer ({said})", f"start it, or correct {subject}_url or the network"
    )


def another(subject: str, url: str) -> Finding:
    """Something answers, and it is not a service of ours."""
    return Finding("fault", subject, f"at {url} another program answers: the port is in use", _another_port(url))


def _another_port(url: str) -> str:
    return f"end what holds port {urlsplit(url).port or 'of this address'}, or give the service another PORT"


def _distrusted(said: str) -> tuple[str, str]:
    """Return what is wrong with a certificate, and what to do about it."""
    if "expired" in said:
        return "has expired", f"renew it: {RENEWAL}; embedded: restart `undersong up`"
    if "not yet valid" in said:
        return "is not valid yet: a clock is wrong", "set both clocks by NTP"
    if "mismatch" in said or "not valid for" in said:
        return "is for other names", "name the address in UNDERSONG_TLS_NAMES, or use one of the names that it has"
    remedy = "name the platform's ca.pem: `undersong login --ca-file …`, ca_file in agent.yaml, or UNDERSONG_CA_FILE"
    return "is by an authority that is not trusted here", remedy


def skew(subject: str, url: str, options: dict[str, Any]) -> Iterator[Finding]:
    """Yield whether the clock behind an address is far from ours; nothing when it cannot be told."""
    try:
        before = datetime.now(UTC)
        answer = httpx.get(f"{url}/health/live", **options)
        middle = before + (datetime.now(UTC) - before) / 2
        skew_s = abs((parsedate_to_datetime(answer.headers["date"]) - middle).total_seconds())
    except (httpx.TransportError, KeyError, ValueError):
        return
    if skew_s > MOST_SKEW_S:
        detail = f"{skew_s:.0f} s away from ours: signed requests are refused from 300 s on"
        yield Finding("fault", f"{subject} clock", detail, "set both clocks by NTP")


def disk(folder: Path, subject: str = "disk", *, then: str = "uploads are refused (507)") -> Finding:
    """Return how much room there is where a folder is, or will be; `then`: what comes of none."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**30:.1f} GiB free at {folder}"
    if free < NO_SPACE_BYTES:
        return Finding("fault", subject, f"no space left: {detail}", f"make room: until then {then}")
    if free < LEAST_FREE_BYTES:
        return Finding("warning", subject, detail, f"make room: when it is full, {then}")
    return Finding("ok", subject, detail)


def life(subject: str, certificate: x509.Certificate, remedy: str, soon: timedelta = EXPIRES_SOON) -> Finding:
    """Return whether a certificate is in its time, and for how long."""
    now, ends = datetime.now(UTC), certificate.not_valid_after_utc
    if now >= ends:
        return Finding("fault", subject, f"expired {_days(now - ends)} ago", remedy)
    if now < certificate.not_valid_before_utc:
        return Finding("fault", subject, "not valid yet: a clock is wrong", "set this machine's clock by NTP")
    if ends - now < soon:
        return Finding("warning", subject, f"expires in {_days(ends - now)}", remedy)
    return Finding("ok", subject, f"good for {_days(ends - now)}")


def _days(span: timedelta) -> str:
    return f"{span.days} days" if span.days else f"{span.seconds // 60} minutes"


def private(subject: str, files: Iterator[Path], remedy_for: str = "chmod 600") -> Iterator[Finding]:
    """Yield one fault for each file that others than its owner can read, and for each that we cannot."""
    count = 0
    for file in files:
        count += 1
        try:
            mode = file.stat().st_mode & 0o777
            os.close(open_regular(file))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            yield Finding("fault", subject, f"{file} cannot be read: {reason}", "chown it to who runs the program")
            continue
        if mode & 0o077:
            detail = f"{file} is open to others (mode {mode:03o})"
            yield Finding(
                "fault", subject, detail, f"{remedy_for} {quote(str(file))}; if others may have read it, renew it"
            )
    if count:
        yield Finding("ok", subject, f"{count} files looked at")
