"""Leaves for the transparency log, appended in the transaction of what they tell."""

from datetime import datetime
from typing import Literal

from pydantic import JsonValue

from undersong.services.keys.domain import Issued
from undersong.services.keys.repository.log import LogRepository
from undersong.shared.database import Transaction
from undersong.shared.merkle import tree
from undersong.shared.transparency.documents import (
    CERTIFICATE_ISSUED,
    CERTIFICATE_REVOKED,
    RESTORED,
    LogEntry,
    leaf_of,
)
from undersong.shared.wire.canonical import canonical

EntryType = Literal["certificate-issued", "certificate-revoked", "round", "restored", "ledger-head"]


async def append(tx: Transaction, type: EntryType, subject: str, document: dict[str, JsonValue]) -> int:  # noqa: A002
    """Append a leaf within the caller's transaction, which has its turn (`AuthorityRepository.in_turn`); its index."""
    repository = LogRepository(tx)
    index = await repository.size()
    entry = LogEntry(index=index, type=type, subject=subject, document=document)
    known = await repository.nodes(tree.left_siblings(index))
    await repository.add(entry, canonical(document), tree.grown(index, leaf_of(document), known), await tx.now())
    return index


async def log_issued(tx: Transaction, issued: Issued) -> None:
    """Append that a certificate was issued."""
    document: dict[str, JsonValue] = {
        "type": CERTIFICATE_ISSUED,
        "keyid": issued.keyid,
        "party": issued.subject.uri,
        "public_key": issued.public_key.hex(),
        "not_before": issued.not_before.isoformat(),
        "not_after": issued.not_after.isoformat(),
    }
    await append(tx, CERTIFICATE_ISSUED, issued.keyid, document)


async def log_revoked(tx: Transaction, keyid: str, at: datetime) -> None:
    """Append that a certificate was revoked."""
    document: dict[str, JsonValue] = {"type": CERTIFICATE_REVOKED, "keyid": keyid, "revoked_at": at.isoformat()}
    await append(tx, CERTIFICATE_REVOKED, keyid, document)


async def log_restored(tx: Transaction, epoch: int) -> None:
    """Append that this database was restored from a copy, so that the gap is said aloud."""
    now = await tx.now()
    await append(tx, RESTORED, str(epoch), {"type": RESTORED, "epoch": epoch, "noticed_at": now.isoformat()})
