"""A running platform as its services tell it over HTTP: health with reasons, clocks, certificates, token, sites."""

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from cryptography import x509

from undersong.client import Client
from undersong.client.calls import evidence as calls
from undersong.client.types import Site
from undersong.client.wire import client_options
from undersong.doctor.findings import RENEWAL, Finding, another, guarded, life, one_line, skew, unreachable
from undersong.doctor.sign_on import examine_sign_on
from undersong.errors import ProfileError
from undersong.profile import Profile
from undersong.shared.identity.transport import proxy_of

SITE_SILENT_S: Final = 60.0
HELPER: Final = "helper"
_CAUSES: Final = {
    ("database", "away"): ("its database does not answer", "start the database, or correct {S}_DATABASE_URL"),
    ("database", "refused"): ("its database refuses the login", "correct user and password in {S}_DATABASE_URL"),
    ("database", "locked"): ("its database is locked", "end what holds it, a copy or a second platform"),
    ("database", "full"): ("its database cannot write: the disk is full", "make room on the database's disk"),
    ("schema", "missing"): ("its database has no tables", "python -m undersong.services.{s} migrate"),
    ("schema", "older"): ("its database has an older schema", "python -m undersong.services.{s} migrate"),
    ("schema", "newer"): (
        "its database has a newer schema than this release knows",
        "install the newer release again, or restore the backup from before the upgrade",
    ),
    ("contents", "damaged"): (
        "stored model files are damaged; they are set aside in its blob store's folder quarantine",
        "PUT the files to /v1/blobs/DIGEST?federation_id=ID again, or delete the versions named in the log",
    ),
    ("redis", "away"): ("Redis does not answer", "start Redis, or correct {S}_REDIS_URL: rounds go on, but slower"),
    ("redis", "refused"): ("Redis refuses the password", "correct the password in {S}_REDIS_URL"),
    ("redis", "full"): ("Redis is out of memory", "raise its maxmemory"),
    ("blobs", "full"): ("no space is left for updates and models", "make room, or mount a larger volume"),
    ("blobs", "read-only"): ("the blob store cannot be written", "fix owner and mode of its folder, or its rights"),
    ("blobs", "away"): ("the blob store is away", "mount its folder, or start the store that {S}_BLOB_URL names"),
    ("blobs", "refused"): (
        "the object store refuses its credentials",
        "correct {S}_BLOB_CREDENTIALS_FILE, and let its key list, read, write and delete in the bucket",
    ),
    ("conditional_writes", "ignored"): (
        "its object store replaces objects that it was asked to create (If-None-Match is ignored)",
        "use a store with conditional writes: until then the last of several uploads of one content stays",
    ),
    ("certificate", "none"): ("it has not enrolled yet", "start keys, and look at {S}_ENROL_TOKEN_FILE"),
    ("certificate", "expired"): ("its certificate has expired", "enrol it again: docs/operations.md, Secrets"),
}


def examine_platform(client: Client) -> Iterator[Finding]:
    """Yield every service, then what only a running platform can tell: token, certificates, sites."""
    profile = client.profile
    addresses = profile.urls() | ({HELPER: profile.helper_url} if profile.helper_url else {})
    with ThreadPoolExecutor(5) as pool:
        for findings in pool.map(lambda item: list(_service(profile, *item)), addresses.items()):
            yield from findings
    yield from guarded("token", lambda: _token(client))
    yield from guarded("sign-on", lambda: examine_sign_on(client))
    yield from guarded("federation CA", lambda: _authority(client))
    if profile.operator_token:
        yield from guarded("certificates", lambda: _certificates(client))
    yield from guarded("sites", lambda: _sites(client))


def _service(profile: Profile, service: str, url: str) -> Iterator[Finding]:
    try:
        options = {**client_options(profile), "trust_env": proxy_of(url) is not None}
        del options["mounts"]  # of a client for many addresses
        answer = httpx.get(f"{url}/health/ready", **options)
        document = answer.json()
    except ProfileError as error:
        yield Finding("fault", service, error.message, error.remedy or "")
        return
    except httpx.TransportError as error:
        yield unreachable(service, url, error)
        return
    except ValueError:
        document = None
    if not isinstance(document, dict) or "status" not in document:
        yield another(service, url)
        return
    yield from _health(service, url, document, answer.status_code)
    yield from skew(service, url, options)
    yield from _tls(service, url, options)


def _health(service: str, url: str, document: dict[str, Any], status: int) -> Iterator[Finding]:
    reasons = document.get("reasons") or {}
    failing, degraded = ([str(name) for name in document.get(key) or []] for key in ("failing", "degraded"))
    for name in failing:
        cause, remedy = _explain(service, name, str(reasons.get(name)))
        yield Finding("fault", service, cause, remedy)
    for name in degraded:
        cause, remedy = _explain(service, name, str(reasons.get(name)))
        yield Finding("warning", service, f"ready, but {cause}", remedy)
    if status != httpx.codes.OK and not failing:
        yield Finding("fault", service, f"not ready ({status})", f"read the log of {service}")
    elif not failing and not degraded:
        yield Finding("ok", service, f"ready at {url}")


def _explain(service: str, check: str, reason: str) -> tuple[str, str]:
    known = _CAUSES.get((check, reason)) or _CAUSES.get((check, "away"))
    if known is None:
        return f"waits for {check}", f"read the log of {service}"
    package = "keys" if service == HELPER else service
    return known[0], known[1].format(S=service.upper(), s=package)


def _tls(service: str, url: str, options: dict[str, Any]) -> Iterator[Finding]:
    """Yield how long the certificate lasts that the address shows; nothing for a plain one."""
    parts, context = urlsplit(url), options["verify"]
    if parts.scheme != "https":
        return
    trusted = context if isinstance(context, ssl.SSLContext) else ssl.create_default_context()
    with suppress(OSError), socket.create_connection((parts.hostname or "", parts.port or 443), timeout=5) as plain:
        with trusted.wrap_socket(plain, server_hostname=parts.hostname) as connection:
            shown = connection.getpeercert(binary_form=True) or b""
        found = life(f"{service} TLS certificate", x509.load_der_x509_certificate(shown), f"renew it: {RENEWAL}")
        if found.state != "ok":
            yield found


def _token(client: Client) -> Iterator[Finding]:
    me = client.me().model_dump(mode="json")
    roles = ", ".join(str(role.get("role")) for role in me.get("roles", []))
    yield Finding("ok", "token", f"{me.get('name', 'known')}: {roles or 'no role'}")


def _authority(client: Client) -> Iterator[Finding]:
    certificate = x509.load_pem_x509_certificate(client.authority().certificate_pem.encode())
    yield life("federation CA", certificate, "plan new enrolments under a new one: docs/operations.md, Secrets")


def _certificates(client: Client) -> Iterator[Finding]:
    """Yield the newest certificate of each site and service, by keys' directory."""
    newest: dict[str, dict[str, Any]] = {}
    for found in client.all(lambda after: calls.certificates(after=after)):
        name = f"{found['kind']} {found['name']}"
        if name not in newest or found["not_after"] > newest[name]["not_after"]:
            newest[name] = found
    fine = 0
    for name, found in newest.items():
        subject, again = f"certificate of {name}", _again(found["kind"], found["name"])
        if found["revoked_at"] is not None:
            yield Finding("fault", subject, f"revoked: {found['reason'] or 'no reason given'}", again)
            continue
        certificate = x509.load_pem_x509_certificate(str(found["certificate_pem"]).encode())
        judged = life(subject, certificate, f"start it: it renews by itself; once expired, {again}")
        if judged.state != "ok":
            yield judged
        fine += judged.state == "ok"
    yield Finding("ok", "certificates", f"{fine} of {len(newest)} parties have a good one")


def _again(kind: str, name: str) -> str:
    """Return how a party whose certificate is of no use any more gets another."""
    if kind == "site":
        return f"enrol it again: undersong site re-enroll {name}; docs/operations.md, Secrets"
    return "enrol it again with a fresh token of keys' operator; docs/operations.md, Secrets"


def _sites(client: Client) -> Iterator[Finding]:
    sites = client.sites()
    if not sites:
        yield Finding("warning", "sites", "none yet", "undersong site enroll NAME")
    for site in sites:
        yield _site(site)
        for alarm in (site.profile or {}).get("alarms") or ():
            detail = one_line(f"{alarm.get('kind')}: {alarm.get('detail')}")
            yield Finding("fault", f"site {site.name}", detail, "docs/operations.md, Alarms of a site's agent")
        for fault in (site.profile or {}).get("faults") or ():
            detail = one_line(" ".join(str(part) for part in (fault.get("code"), fault.get("dataset")) if part))
            remedy = "its owner sees the reason: undersong doctor --agent …/agent.yaml"
            yield Finding("warning", f"site {site.name}", detail, remedy)


def _site(site: Site) -> Finding:
    subject = f"site {site.name}"
    if site.state not in ("active", "unknown"):
        return Finding("warning", subject, site.state, f"undersong site suspend {site.name} --lift")
    if site.last_seen_at is None:
        return Finding("warning", subject, "its agent has never called", "undersong agent run --config …/agent.yaml")
    silent_s = (datetime.now(UTC) - site.last_seen_at).total_seconds()
    if silent_s > SITE_SILENT_S:
        remedy = "start its agent; `undersong doctor --agent …/agent.yaml` beside it says what hinders it"
        return Finding("warning", subject, f"silent for {silent_s:.0f} s", remedy)
    return Finding("ok", subject, f"seen {max(silent_s, 0):.0f} s ago")
