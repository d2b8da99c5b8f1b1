"""Fetching the parts of a bundle: which are needed follows from the round's record and the versions' lineage."""

from collections.abc import Iterable
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from undersong.shared.errors import Conflict, NotFound, Refusal
from undersong.shared.identity.authority import keyid_of, public_bytes
from undersong.shared.ids import Digest
from undersong.shared.secagg.engines import engine_audit, engine_facts
from undersong.shared.transparency.certificates import read_holder
from undersong.shared.transparency.documents import LoggedRecord, RoundRecord
from undersong.shared.transparency.evidence import MAX_VERSIONS, Evidence, VersionEvidence
from undersong.shared.transparency.records import named_voucher

VERSION_PREFIX: Final = "ver_"


class NoRecord(NotFound):
    """There is no logged round to give evidence about."""


class PartsUnusable(Conflict):
    """The services' answers do not make a bundle."""


class Sources(Protocol):
    """Where the parts come from. Calls raise NotFound, or whatever else the service answered."""

    async def authority(self) -> str:
        """Return the authority's certificate as PEM."""

    async def logged(self, round_id: str) -> LoggedRecord:
        """Return the round's record with its proof and the log's present head."""

    async def version(self, version_id: str) -> dict[str, Any]:
        """Return the registry's answer about a version."""

    async def certificate(self, keyid: str) -> str:
        """Return one certificate as PEM."""

    async def certificates(self, name: str) -> list[str]:
        """Return every certificate that a site (by id) or service ever had, as PEM."""


async def collect(subject: str, sources: Sources) -> Evidence:
    """Return the bundle about a round or a version; raises NoRecord or PartsUnusable, and what `sources` raises."""
    try:
        round_id = await _round_of(subject, sources)
        logged = await sources.logged(round_id)
        versions = await _versions(logged.record, sources)
        ca = x509.load_pem_x509_certificate((await sources.authority()).encode())
        certificates = await _certificates(logged, versions, ca, sources)
        return Evidence(
            subject=subject,
            authority=_hex(ca),
            certificates=tuple(_hex(each) for each in sorted(certificates, key=keyid_of)),
            logged=logged,
            versions=tuple(versions),
        )
    except (ValidationError, ValueError, KeyError) as error:
        raise PartsUnusable(f"The parts of the evidence do not fit together: {error}") from error


async def _round_of(subject: str, sources: Sources) -> str:
    if not subject.startswith(VERSION_PREFIX):
        return subject
    round_id = (await sources.version(subject))["lineage"].get("round_id")
    if not isinstance(round_id, str):
        raise NoRecord(f"Version {subject} was brought in from outside; no round made it.")
    return round_id


async def _versions(record: RoundRecord, sources: Sources) -> list[VersionEvidence]:
    """Return what the round made or started from, and every ancestor, the newest first."""
    plan = record.manifest.manifest
    first = record.result.version_id or (plan.model.version_id if plan.model else None)
    waiting, found = [str(first)] if first else [], dict[str, VersionEvidence]()
    while waiting and len(found) < MAX_VERSIONS:
        version_id = waiting.pop()
        if version_id not in found:
            found[version_id] = version_of(await sources.version(version_id))
            parents = found[version_id].lineage.get("parents", [])
            waiting += [str(parent) for parent in parents] if isinstance(parents, list) else []
    return list(found.values())


def version_of(answer: dict[str, Any]) -> VersionEvidence:
    """Return the registry's answer, as evidence; raises KeyError or ValidationError."""
    signed = {item["role"]: {key: item[key] for key in ("role", "keyid", "signature")} for item in answer["signatures"]}
    kept = {key: answer[key] for key in ("id", "model_id", "content_digest", "lineage")}
    return VersionEvidence.model_validate({**kept, "signatures": [signed[role] for role in sorted(signed)]})


async def _certificates(
    logged: LoggedRecord, versions: Iterable[VersionEvidence], ca: x509.Certificate, sources: Sources
) -> list[x509.Certificate]:
    keyids: list[str] = [logged.record.manifest.keyid, logged.head.keyid]
    keyids += [signature.keyid for version in versions for signature in version.signatures]
    found: dict[Digest, x509.Certificate] = {}
    for keyid in dict.fromkeys(keyids):
        _add(found, await sources.certificate(keyid))
    await _add_voucher(found, logged.record, ca, sources)
    for site_id, identity in engine_audit(logged.record.engine).identities(logged.record).items():
        for pem in await sources.certificates(site_id):
            if _key(pem, ca) == identity:
                _add(found, pem)
    return list(found.values())


async def _add_voucher(
    found: dict[Digest, x509.Certificate], record: RoundRecord, ca: x509.Certificate, sources: Sources
) -> None:
    """Add the certificate with which the set of updates was vouched for: it may be older than that of the head."""
    service, named = engine_facts(record.engine).vouched_by, named_voucher(record)
    if named is not None:
        return _add(found, await sources.certificate(named[1]))
    for pem in await sources.certificates(service) if service is not None else ():
        try:
            engine_audit(record.engine).check_voucher(record, _key(pem, ca))
        except Refusal:
            continue
        return _add(found, pem)
    return None


def _add(found: dict[Digest, x509.Certificate], pem: str) -> None:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    found[keyid_of(certificate)] = certificate


def _key(pem: str, ca: x509.Certificate) -> bytes:
    return public_bytes(read_holder(_hex(x509.load_pem_x509_certificate(pem.encode())), ca).public_key)


def _hex(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.DER).hex()
