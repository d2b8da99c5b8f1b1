"""Evidence about a round or version, collected from keys and registry for a person who may see it, and audited.

The coordinator only carries the parts: their receiver checks them, and need not trust it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from undersong.services.coordinator.peers.keys import CertificateFacts, KeysDirectory
from undersong.services.coordinator.peers.registry import PrivacyAudit, Registry
from undersong.shared.database import Page
from undersong.shared.errors import NotFound
from undersong.shared.identity.authority import Identity, keyid_of
from undersong.shared.ids import Digest
from undersong.shared.transparency.audit import CheckResult, audit
from undersong.shared.transparency.collecting import collect
from undersong.shared.transparency.documents import LoggedRecord
from undersong.shared.transparency.evidence import Evidence
from undersong.shared.transparency.ledger_heads import LoggedLedgerHead
from undersong.shared.web.access import Principal, Role


class NoEvidence(NotFound):
    """There is no evidence about this, or not for you."""


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What the checks found. `pinned`: the fingerprint of the authority with which the coordinator enrolled.

    `privacy` are the privacy audits of the version, as the registry tells them.
    """

    round_id: str
    version_id: str | None
    pinned: Digest
    findings: tuple[CheckResult, ...]
    privacy: tuple[PrivacyAudit, ...] = ()


@dataclass(frozen=True, slots=True)
class _Sources:
    """The parts, shown to one person only as far as they may see them: what is not theirs is not there."""

    keys: KeysDirectory
    registry: Registry
    person: Principal

    async def authority(self) -> str:
        return await self.keys.authority()

    async def logged(self, round_id: str) -> LoggedRecord:
        found = await self.keys.logged(round_id)
        self.person.check(*Role, federation_id=found.record.manifest.manifest.federation_id)
        return found

    async def version(self, version_id: str) -> dict[str, Any]:
        found = await self.registry.version_document(version_id)
        self.person.check(*Role, federation_id=str(found.get("federation_id")))
        return found

    async def certificate(self, keyid: str) -> str:
        return await self.keys.certificate(keyid)

    async def certificates(self, name: str) -> list[str]:
        return await self.keys.certificates(name)


class Auditing:
    """The use cases of auditors."""

    def __init__(self, keys: KeysDirectory, registry: Registry, identity: Callable[[], Identity]) -> None:
        self._keys, self._registry, self._identity = keys, registry, identity

    async def certificates(self, most: int) -> list[CertificateFacts]:
        """Return what the directory of keys knows, as far as `most` go; the caller shows each person theirs."""
        return await self._keys.directory(most)

    async def ledger_heads(
        self, federation_id: str, site_id: str, limit: int, after: str | None
    ) -> Page[LoggedLedgerHead]:
        """Return a page of the heads of a site's ledger in the transparency log; the caller may see the site."""
        start = int(after) + 1 if after is not None and after.isascii() and after.isdigit() else 0
        found = await self._keys.ledger_heads(federation_id, site_id, start, limit)
        return Page(found, str(found[-1].index) if len(found) == limit else None)

    async def evidence(self, person: Principal, subject: str) -> Evidence:
        """Return the bundle about a round or version; raises NotFound, PartsUnusable or PartyAway."""
        try:
            return await collect(subject, _Sources(self._keys, self._registry, person))
        except NotFound as error:  # which part is missing would tell whether the thing exists
            raise NoEvidence(f"There is no evidence about {subject}, or not for you.") from error

    async def verdict(self, person: Principal, subject: str) -> AuditResult:
        """Return the same, audited against the authority that this service itself enrolled with."""
        pinned = keyid_of(self._identity().ca_certificate)
        evidence = await self.evidence(person, subject)
        findings = await asyncio.to_thread(audit, evidence, pinned, subject)
        record = evidence.logged.record
        version_id = record.result.version_id
        privacy = () if version_id is None else (await self._registry.version(version_id)).audits
        return AuditResult(record.round_id, version_id, pinned, tuple(findings), privacy)
