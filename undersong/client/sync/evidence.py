"""What the client does with certificates, evidence and the transparency log.

Generated from `aio/evidence.py` by `make client`: change that file.
"""

from typing import Any

from undersong.client import types as t
from undersong.client import wire
from undersong.client.calls import evidence as calls
from undersong.client.sync.connection import Connection
from undersong.shared.transparency.datasheet import SignedDatasheet
from undersong.shared.transparency.documents import ConsistencyProof, InclusionProof, LogEntry, LoggedRecord, LogHead
from undersong.shared.transparency.evidence import Evidence
from undersong.shared.transparency.ledger_heads import LoggedLedgerHead
from undersong.shared.wire.manifest import SignedManifest


class EvidenceMethods(Connection):
    """Methods about certificates, evidence and the transparency log."""

    def authority(self) -> t.Authority:
        """Return the federation's certificate authority."""
        return self.send(calls.authority())

    def certificates(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the certificates of one site or service by its id or name, or all (operator)."""
        return self.all(lambda after: calls.certificates(name, after))

    def certificate(self, keyid: str) -> dict[str, Any]:
        """Return one certificate by its fingerprint: what it names, and its PEM."""
        return self.send(calls.certificate(keyid))

    def revoke_certificate(self, keyid: str, reason: str) -> None:
        """Revoke a certificate and every one that was rotated from it (operator)."""
        self.send(calls.revoke_certificate(keyid, reason))

    def evidence(self, subject: str) -> Evidence:
        """Return everything that is needed to check a round or a model version offline."""
        return self.send(calls.evidence(subject))

    def ledger_heads(self, site_id: str) -> list[LoggedLedgerHead]:
        """Return all heads of a site's privacy ledger in the transparency log, in its order, as the site signed them.

        Who holds the ledger, or an export of it, compares them with it: `undersong ledger verify --against`.
        """
        return self.all(lambda after: calls.ledger_heads(site_id, after))

    def datasheet(self, version_id: str, *, ca: str | None = None) -> SignedDatasheet:
        """Return a version's privacy datasheet, after a check that the federation's coordinator signed it.

        ca: SHA-256 fingerprint of the federation's authority, from elsewhere; without it, the authority that the keys
        service names is trusted. Raises UndersongError for a signature that does not hold.
        """
        signed = self.send(calls.datasheet(version_id))
        return wire.checked_datasheet(signed, version_id, ca or self.authority().fingerprint)

    def manifest(self, round_id: str) -> SignedManifest:
        """Return a round's manifest with the coordinator's signature, which is not checked here."""
        return self.send(calls.manifest(round_id))

    def log_head(self) -> LogHead:
        """Return the transparency log's present size and root, signed."""
        return self.send(calls.log_head())

    def log_entries(self, start: int, end: int) -> list[LogEntry]:
        """Return the log's entries from `start` up to, not including, `end` (operator)."""
        return self.send(calls.log_entries(start, end))["items"]

    def inclusion_proof(self, index: int, size: int) -> InclusionProof:
        """Return the proof that the log of `size` entries holds entry `index`."""
        return self.send(calls.inclusion_proof(index, size))

    def consistency_proof(self, first: int, second: int) -> ConsistencyProof:
        """Return the proof that the log of `second` entries continues the log of `first`."""
        return self.send(calls.consistency_proof(first, second))

    def round_record(self, round_id: str) -> LoggedRecord:
        """Return a round's record with its place in the log (operator)."""
        return self.send(calls.round_record(round_id))
