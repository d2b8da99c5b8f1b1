"""One site's agent, looked at beside its files: settings, keys, certificate, data, packages, the way to the platform.

Nothing is sent that names the site, and nothing is changed.
"""

import asyncio
import sqlite3
import ssl
from collections.abc import Generator, Iterator
from pathlib import Path
from shlex import quote
from typing import Any, Final

import httpx
from cryptography import x509

from undersong.doctor.findings import Finding, another, disk, life, one_line, open_database, private, skew, unreachable
from undersong.doctor.machine import kernels, packages
from undersong.services.agent.domain.rules import Policy, TaskFailure
from undersong.services.agent.ledger.book import fault_in
from undersong.services.agent.ledger.mark import LedgerMark
from undersong.services.agent.policy.owners import load_policy
from undersong.services.agent.repository.alarms import REMEDY
from undersong.services.agent.repository.store import SCHEMA_VERSION
from undersong.services.agent.settings import AgentSettings, ConfigError, load
from undersong.services.agent.site.description import data_files, look, same_files, unresolved
from undersong.services.agent.site.device import CHECKED_ON, DEVICE_REMEDY, alone, lacking
from undersong.shared.identity.authority import (
    IDENTITY_FILE,
    CertificateUntrusted,
    Identity,
    check_certificate,
    keyid_of,
)
from undersong.shared.identity.enrol import PENDING_FILE
from undersong.shared.identity.transport import proxy_of, trust

SERVICES: Final = ("coordinator", "aggregator", "keys", "registry")
_PAGES: Final = 1000


def examine_agent(config: Path) -> Iterator[Finding]:
    """Yield all that can be seen from `agent.yaml` on."""
    remedy = "fix it, or have it written: undersong site enroll NAME"
    try:
        settings = load(config)
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        there = config.exists()
        yield Finding("fault", "agent.yaml", one_line(error) if there else f"there is no {config}", remedy)
        return
    yield Finding("ok", "agent.yaml", str(config))
    yield from _files(settings)
    yield packages(("torch", "pyarrow"), "pip install 'undersong[agent]': recipes that train with it cannot run here")
    yield from _device(settings)
    yield kernels()
    yield disk(settings.data_dir, then="tasks fail, because what is sent must be on the disk first")
    reached = yield from _ways(settings)
    yield from _identity(settings, reached.get("keys"))


def _device(settings: AgentSettings) -> Iterator[Finding]:
    if (reason := alone(settings)) is not None:
        remedy = "allow user namespaces, set runner: docker, or write processes: 1"
        yield Finding("warning", "processes", f"one of {settings.processes} trains alone: {reason}", remedy)
    if settings.device in ("auto", "cpu"):
        return
    reason = lacking(settings)
    if reason is None:
        tried = f"; recipes were compared with a CPU on: {', '.join(CHECKED_ON) or 'no GPU yet'}"
        yield Finding("ok", "device", settings.device + (tried if settings.device == "cuda" else ""))
    else:
        yield Finding("fault", "device", f"{settings.device}: {reason}", DEVICE_REMEDY)


def _files(settings: AgentSettings) -> Iterator[Finding]:
    policy: Policy | None = None
    if settings.policy.exists():
        try:
            policy, _ = load_policy(settings)
            yield Finding("ok", "policy", str(settings.policy))
        except ConfigError as error:
            yield Finding("fault", "policy", one_line(error), "fix it; the agent does nothing until then")
    else:
        yield Finding(
            "warning", "policy", "none yet: the agent writes one that allows what is installed", "read it then"
        )
    if not settings.datasets.exists():
        yield Finding(
            "fault", "datasets", f"there is no {settings.datasets}", "declare the data: undersong data init FILE"
        )
    else:
        yield from _datasets(settings, policy)
    yield from _state(settings)
    yield from private("key files", _key_files(settings))


def _datasets(settings: AgentSettings, policy: Policy | None) -> Iterator[Finding]:
    """Read the data sets as the agent does, with its own code, and say the same of them."""
    try:
        found = asyncio.run(look(settings, policy))
    except (TaskFailure, ConfigError, OSError) as error:
        text = "; ".join(str(getattr(error, "text", "")).strip().splitlines()[-1:])
        detail = f"the agent cannot read them here: {one_line(error)}" + (f" ({text})" if text else "")
        yield Finding("fault", "datasets", detail, "correct what is named; the agent's own log says the same")
        return
    for name, reason in found.unread.items():
        yield Finding("fault", f"data set {name}", one_line(reason), f"correct its file, or {settings.datasets}")
    for fault in found.faults:
        yield Finding("warning", "recipes", one_line(fault), f"correct it, or allow it in {settings.policy}")
    for fault in unresolved(policy, found) if policy is not None else ():
        yield Finding("fault", "policy", one_line(fault), f"correct {settings.policy}")
    for name, others in same_files(data_files(settings)).items():
        detail = f"{', '.join(sorted(others))} read a file of it too: their privacy budgets are spent together"
        yield Finding("warning", f"files of {name}", detail, f"declare the rows once in {settings.datasets}")
    for schema in found.datasets:
        name = str(schema["name"])
        if policy is not None and name not in policy.datasets:
            detail = "the policy does not name it, so no job can use it"
            remedy = f"name it with its columns under datasets in {settings.policy}, if it is to be used"
            yield Finding("warning", f"data set {name}", detail, remedy)
        else:
            yield Finding("ok", f"data set {name}", f"{schema['rows']} rows, {len(schema['columns'])} columns")


def _state(settings: AgentSettings) -> Iterator[Finding]:
    file = settings.data_dir / "agent.sqlite"
    if not file.exists():
        return
    try:
        with open_database(file) as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.DatabaseError as error:
        remedy = "do not delete it: it knows which rounds were answered. Restore it, or enrol as a new site"
        yield Finding("fault", "state", f"{file} is damaged: {error}", remedy)
        return
    yield from _alarms(file)
    yield from _ledger(file, LedgerMark(settings.high_water))
    if version > SCHEMA_VERSION:
        detail = f"{file} was written by a newer agent (version {version}, this one knows {SCHEMA_VERSION})"
        yield Finding("fault", "state", detail, "install the newer release again")


def _ledger(file: Path, mark: LedgerMark) -> Iterator[Finding]:
    """Yield whether the ledger holds, by which rounds with noise are charged."""
    try:
        with open_database(file) as db:
            fault = fault_in(db, mark)
    except sqlite3.DatabaseError:  # a state from before there was a ledger; damage is told above
        return
    if fault is not None:
        detail = f"it cannot be relied on, so rounds with noise are refused: {one_line(fault)}"
        yield Finding("fault", "ledger", detail, "find out what happened (undersong ledger verify), then: adopt")


def _alarms(file: Path) -> Iterator[Finding]:
    """Yield what the agent found in the transparency log."""
    try:
        with open_database(file) as db:
            rows = db.execute("SELECT kind, detail FROM alarms ORDER BY created_at").fetchall()
    except sqlite3.DatabaseError:  # a state from before there were alarms; damage is told above
        return
    for kind, detail in rows:
        yield Finding(
            "fault", str(kind), one_line(detail), REMEDY.get(str(kind), "python -m undersong.services.agent status")
        )


def _key_files(settings: AgentSettings) -> Iterator[Path]:
    identity = settings.data_dir / "identity"
    files = [identity / IDENTITY_FILE, identity / PENDING_FILE, settings.data_dir / "agent.sqlite"]
    yield from (file for file in (*files, settings.enrol_token_file) if file is not None and file.is_file())


def _ways(settings: AgentSettings) -> Generator[Finding, None, dict[str, dict[str, Any]]]:
    """Yield each service, as this agent would reach it; those that answer, with the options that reach them."""
    reached: dict[str, dict[str, Any]] = {}
    for service in SERVICES:
        url = str(getattr(settings, f"{service}_url")).rstrip("/")
        try:
            options: dict[str, Any] = {
                "verify": trust(settings.ca_file, [url], settings.ca_trust),
                "timeout": 5.0,
                "trust_env": proxy_of(url) is not None,
            }
            answer = httpx.get(f"{url}/health/live", **options)
            known = answer.json().get("status") == "live"
        except (OSError, ssl.SSLError) as error:  # the file of authorities
            yield Finding("fault", "ca_file", f"{settings.ca_file}: {error}", "get ca.pem from the platform's operator")
            continue
        except (httpx.TransportError, httpx.InvalidURL) as error:
            yield unreachable(service, url, error)
            continue
        except (ValueError, AttributeError):
            known = False
        if not known:
            yield another(service, url)
            continue
        way = proxy_of(url)
        yield Finding("ok", service, f"answers at {url}{f' through the proxy {way}' if way else ''}")
        yield from skew(service, url, options)
        reached[service] = {"url": url, **options}
    return reached


def _identity(settings: AgentSettings, keys: dict[str, Any] | None) -> Iterator[Finding]:
    folder = settings.data_dir / "identity"
    if not (folder / IDENTITY_FILE).exists():
        yield _not_enrolled(settings)
        return
    try:
        identity = Identity.load(folder)
        holder = check_certificate(identity.certificate, identity.ca_certificate)
    except (OSError, ValueError, CertificateUntrusted) as error:
        remedy = f"delete {quote(str(folder))}; then {_again(settings)}"
        yield Finding("fault", "certificate", f"{folder} holds no usable identity: {error}", remedy)
        return
    remedy = f"start the agent while the keys service answers: it renews by itself; once expired: {_again(settings)}"
    soon = (holder.not_after - holder.not_before) / 4  # a running agent renews before a third is left
    yield life("certificate", identity.certificate, remedy, soon)
    if keys is not None:
        yield from _standing(identity, dict(keys), settings)


def _again(settings: AgentSettings) -> str:
    """Return how a site whose certificate is of no use any more gets another."""
    file = settings.enrol_token_file or "a file that enrol_token_file in agent.yaml names"
    return f"undersong site re-enroll NAME, put its enrol-token into {file}, and the agent enrols again"


def _not_enrolled(settings: AgentSettings) -> Finding:
    file = settings.enrol_token_file
    if file is None or not file.exists():
        remedy = "undersong site enroll NAME, or ask keys' operator for a token and name its file enrol_token_file"
        return Finding("fault", "certificate", "none yet, and no enrolment token", remedy)
    return Finding("warning", "certificate", "none yet", "start the agent: it enrols with its token")


def _standing(identity: Identity, keys: dict[str, Any], settings: AgentSettings) -> Iterator[Finding]:
    """Yield what the keys service says of this certificate: by its own authority, and not revoked."""
    url, again = keys.pop("url"), _again(settings)
    try:
        authority = httpx.get(f"{url}/v1/authority", **keys).raise_for_status().json()
        present = x509.load_pem_x509_certificate(str(authority["certificate_pem"]).encode())
        if keyid_of(present) != keyid_of(identity.ca_certificate):
            remedy = (
                f"is this the right platform? If so, delete {quote(str(settings.data_dir / 'identity'))}; then {again}"
            )
            yield Finding("fault", "authority", "the certificate is by another authority than the platform's", remedy)
            return
        revoked = _revoked(url, keys)
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        yield Finding("warning", "certificate", f"keys could not be asked about it: {error}", "try again")
        return
    if identity.keyid in revoked:
        detail = f"revoked: {revoked[identity.keyid]}"
        yield Finding("fault", "certificate", detail, f"ask keys' operator why; then {again}")


def _revoked(url: str, options: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    after: Any = 0
    for _ in range(_PAGES):
        page = httpx.get(f"{url}/v1/revocations", params={"after": after}, **options).raise_for_status().json()
        found |= {item["keyid"]: str(item.get("reason") or "no reason given") for item in page["items"]}
        if page["next"] is None:
            break
        after = page["items"][-1]["sequence"]
    return found
