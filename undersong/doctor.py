"""What is wrong with a set-up, and what mends it: one `Finding` per thing looked at."""

import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Literal

import httpx
from cryptography import x509

from undersong.client import Client
from undersong.client.types import Site
from undersong.client.wire import client_options
from undersong.errors import UndersongError
from undersong.profile import Profile

State = Literal["ok", "warning", "fault"]

LEAST_FREE_BYTES: Final = 2 * 2**30  # a job with a large model fills less than this within an hour
MOST_SKEW_S: Final = 60.0  # signed requests are refused at 300 s
SITE_SILENT_S: Final = 60.0
EXPIRES_SOON: Final = timedelta(days=14)
PACKAGES: Final = ("fastapi", "sqlalchemy", "redis", "obstore", "torch")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `remedy` stands there unless it is fine."""

    state: State
    subject: str
    detail: str
    remedy: str = ""


def examine_machine(folder: Path) -> Iterator[Finding]:
    """What does not depend on any platform: interpreter, packages, disk."""
    yield Finding("ok", "python", platform.python_version())
    missing = [name for name in PACKAGES if _version(name) is None]
    if missing:
        yield Finding(
            "warning", "packages", f"not installed: {', '.join(missing)}", "pip install 'undersong[embedded]'"
        )
    else:
        yield Finding("ok", "packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    yield _disk(folder)


def examine_platform(client: Client) -> Iterator[Finding]:
    """Every service, then what only a running platform can tell: token, certificates, sites."""
    profile = client.profile
    with ThreadPoolExecutor(4) as pool:
        for findings in pool.map(lambda item: list(_service(client, *item)), profile.urls().items()):
            yield from findings
    yield from _guarded("token", lambda: _token(client))
    yield from _guarded("federation CA", lambda: _authority(client))
    yield from _guarded("sites", lambda: _sites(client))


def _guarded(subject: str, examine: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from examine()
    except UndersongError as error:
        yield Finding("fault", subject, error.message, error.remedy or "undersong doctor, once the services are ready")


def _service(client: Client, service: str, url: str) -> Iterator[Finding]:
    try:
        health = client.health(service)
    except UndersongError as error:
        yield Finding(
            "fault", service, error.message, f"start it, or mend {service}_url: `undersong up` or `undersong login`"
        )
        return
    failing = [str(name) for name in health.document.get("failing") or []]
    degraded = health.document.get("degraded") or []
    if not health.ready:
        detail = f"waits for {', '.join(failing)}" if failing else f"not ready ({health.status_code})"
        yield Finding("fault", service, detail, _service_remedy(service, failing))
    elif degraded:
        names = ", ".join(str(name) for name in degraded)
        yield Finding("warning", service, f"ready without {names}", f"bring {names} back: rounds go on, but slower")
    else:
        yield Finding("ok", service, f"ready at {url}")
    yield from _skew(client.profile, service, url)


def _service_remedy(service: str, failing: list[str]) -> str:
    if "database" in failing:
        return f"start the database, or mend {service.upper()}_DATABASE_URL"
    if "schema" in failing:
        return f"python -m services.{service} migrate"
    return f"read the log of {service}"


def _skew(profile: Profile, service: str, url: str) -> Iterator[Finding]:
    try:
        before = datetime.now(UTC)
        answer = httpx.get(f"{url}/health/live", **client_options(profile))
        middle = before + (datetime.now(UTC) - before) / 2
        skew_s = abs((parsedate_to_datetime(answer.headers["date"]) - middle).total_seconds())
    except (httpx.TransportError, KeyError, ValueError):
        return
    if skew_s > MOST_SKEW_S:
        yield Finding("fault", f"{service} clock", f"{skew_s:.0f} s away from ours", "set both clocks by NTP")


def _token(client: Client) -> Iterator[Finding]:
    me = client.me().model_dump(mode="json")
    roles = ", ".join(str(role.get("role")) for role in me.get("roles", []))
    yield Finding("ok", "token", f"{me.get('name', 'known')}: {roles or 'no role'}")


def _authority(client: Client) -> Iterator[Finding]:
    certificate = x509.load_pem_x509_certificate(client.authority().certificate_pem.encode())
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    if left < EXPIRES_SOON:
        yield Finding("warning", "federation CA", f"expires in {left.days} days", "renew it: docs/operations.md")
    else:
        yield Finding("ok", "federation CA", f"good for {left.days} more days")


def _sites(client: Client) -> Iterator[Finding]:
    sites = client.sites()
    if not sites:
        yield Finding("warning", "sites", "none yet", "undersong site enroll NAME")
    for site in sites:
        yield _site(site)


def _site(site: Site) -> Finding:
    subject = f"site {site.name}"
    if site.state not in ("active", "unknown"):
        return Finding("warning", subject, site.state, f"undersong site suspend {site.name} --lift")
    if site.last_seen_at is None:
        return Finding("warning", subject, "its agent has never called", "undersong agent run --config …/agent.yaml")
    silent_s = (datetime.now(UTC) - site.last_seen_at).total_seconds()
    if silent_s > SITE_SILENT_S:
        return Finding("warning", subject, f"silent for {silent_s:.0f} s", "start its agent, or look at its log")
    return Finding("ok", subject, f"seen {max(silent_s, 0):.0f} s ago")


def _disk(folder: Path) -> Finding:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**30:.1f} GiB free at {folder}"
    if free < LEAST_FREE_BYTES:
        return Finding("warning", "disk", detail, "make room: updates and models are refused with 507 when it is full")
    return Finding("ok", "disk", detail)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
