"""Requests about certificates, evidence and the transparency log."""

from typing import Any

from undersong.client import types as t
from undersong.client.calls.call import Call, get, post, quoted
from undersong.shared.transparency.datasheet import SignedDatasheet
from undersong.shared.transparency.documents import ConsistencyProof, InclusionProof, LogEntry, LoggedRecord, LogHead
from undersong.shared.transparency.evidence import Evidence
from undersong.shared.transparency.ledger_heads import LoggedLedgerHead
from undersong.shared.wire.manifest import SignedManifest


def evidence(subject: str) -> Call[Evidence]:
    """Everything that is needed to check a round or a version offline."""
    return get("coordinator", f"/evidence/{quoted(subject)}", Evidence)


def datasheet(version_id: str) -> Call[SignedDatasheet]:
    """Return the privacy datasheet of a version, as the coordinator signed it."""
    return get("coordinator", f"/versions/{quoted(version_id)}/datasheet", SignedDatasheet)


def ledger_heads(site_id: str, after: str | None = None) -> Call[t.Page[LoggedLedgerHead]]:
    """Return heads of a site's privacy ledger in the transparency log, in its order."""
    return get("coordinator", f"/sites/{quoted(site_id)}/ledger-heads", t.Page[LoggedLedgerHead], after=after)


def manifest(round_id: str) -> Call[SignedManifest]:
    """Return a round's manifest, as the coordinator signed it."""
    return get("coordinator", f"/rounds/{quoted(round_id)}/manifest", SignedManifest)


def authority() -> Call[t.Authority]:
    """Return the federation's certificate authority."""
    return get("keys", "/authority", t.Authority)


def certificates(name: str | None = None, after: str | None = None) -> Call[t.Page[dict[str, Any]]]:
    """Certificates of one site or service, or of all."""
    return get("keys", "/certificates", t.Page[dict[str, Any]], name=name, after=after)


def revoke_certificate(keyid: str, reason: str) -> Call[dict[str, Any]]:
    """Revoke a certificate and every one that was rotated from it (operator)."""
    return post("keys", f"/certificates/{quoted(keyid)}/revocations", dict[str, Any], {"reason": reason})


def certificate(keyid: str) -> Call[dict[str, Any]]:
    """Return one certificate by its fingerprint."""
    return get("keys", f"/certificates/{quoted(keyid)}", dict[str, Any])


def log_head() -> Call[LogHead]:
    """Return the transparency log's size and root now, signed."""
    return get("keys", "/log/head", LogHead)


def log_entries(start: int, end: int) -> Call[dict[str, list[LogEntry]]]:
    """Return the log's entries from `start` up to, not including, `end`, as {"items": […]} (operator)."""
    return get("keys", "/log/entries", dict[str, list[LogEntry]], start=start, end=end)


def inclusion_proof(index: int, size: int) -> Call[InclusionProof]:
    """Fetch the proof that the log of `size` entries holds an entry."""
    return get("keys", "/log/proofs/inclusion", InclusionProof, index=index, size=size)


def consistency_proof(first: int, second: int) -> Call[ConsistencyProof]:
    """Return the proof that the log of `first` entries is the beginning of the one of `second`."""
    return get("keys", "/log/proofs/consistency", ConsistencyProof, first=first, second=second)


def round_record(round_id: str) -> Call[LoggedRecord]:
    """Return a round's record with its place in the log (operator)."""
    return get("keys", f"/rounds/{quoted(round_id)}/record", LoggedRecord)
