"""What the client does with certificates, evidence and the transparency log."""

from typing import Any

from undersong.client import types as t
from undersong.client import wire
from undersong.client.aio.connection import AsyncConnection
from undersong.client.calls import evidence as calls
from undersong.shared.transparency.datasheet import SignedDatasheet
from undersong.shared.transparency.documents import ConsistencyProof, InclusionProof, LogEntry, LoggedRecord, LogHead
from undersong.shared.transparency.evidence import Evidence
from undersong.shared.transparency.ledger_heads import LoggedLedgerHead
from undersong.shared.wire.manifest import SignedManifest


class AsyncEvidenceMethods(AsyncConnection):
    """Methods about certificates, evidence and the transparency log."""

    async def authority(self) -> t.Authority:
        """Return the federation's certificate authority."""
        return await self.send(calls.authority())

    async def certificates(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the certificates of one site or service by its id or name, or all (operator)."""
        return await self.all(lambda after: calls.certificates(name, after))

    async def certificate(self, keyid: str) -> dict[str, Any]:
        """Return one certificate by its fingerprint: what it names, and its PEM."""
        return await self.send(calls.certificate(keyid))

    async def revoke_certificate(self, keyid: str, reason: str) -> None:
        """Revoke a certificate and every one that was rotated from it (operator)."""
        await self.send(calls.revoke_certificate(keyid, reason))

    async def evidence(self, subject: str) -> Evidence:
        """Return everything that is needed to check a round or a model version offline."""
        return await self.send(calls.evidence(subject))

    async def ledger_heads(self, site_id: str) -> list[LoggedLedgerHead]:
        """Return all heads of a site's privacy ledger in the transparency log, in its order, as the site signed them.

        Who holds the ledger, or an export of it, compares them with it: `undersong ledger verify --against`.
        """
        return await self.all(lambda after: calls.ledger_heads(site_id, after))

    async def datasheet(self, version_id: str, *, ca: str | None = None) -> SignedDatasheet:
        """Return a version's privacy datasheet, after a check that the federation's coordinator signed it.

        ca: SHA-256 fingerprint of the federation's authority, from elsewhere; without it, the authority that the keys
        service names is trusted. Raises UndersongError for a signature that does not hold.
        """
        signed = await self.send(calls.datasheet(version_id))
        return wire.checked_datasheet(signed, version_id, ca or (await self.authority()).fingerprint)

    async def manifest(self, round_id: str) -> SignedManifest:
        """Return a round's manifest with the coordinator's signature, which is not checked here."""
        return await self.send(calls.manifest(round_id))

    async def log_head(self) -> LogHead:
        """Return the transparency log's present size and root, signed."""
        return await self.send(calls.log_head())

    async def log_entries(self, start: int, end: int) -> list[LogEntry]:
        """Return the log's entries from `start` up to, not including, `end` (operator)."""
        return (await self.send(calls.log_entries(start, end)))["items"]

    async def inclusion_proof(self, index: int, size: int) -> InclusionProof:
        """Return the proof that the log of `size` entries holds entry `index`."""
        return await self.send(calls.inclusion_proof(index, size))

    async def consistency_proof(self, first: int, second: int) -> ConsistencyProof:
        """Return the proof that the log of `second` entries continues the log of `first`."""
        return await self.send(calls.consistency_proof(first, second))

    async def round_record(self, round_id: str) -> LoggedRecord:
        """Return a round's record with its place in the log (operator)."""
        return await self.send(calls.round_record(round_id))
