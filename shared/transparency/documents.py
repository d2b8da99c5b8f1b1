"""What the log holds and what proves it: documents. The checks over them are in
`undersong.shared.transparency.records`.

A leaf is the canonical form (`undersong.shared.wire.canonical`) of a small document that says what happened; a round's
leaf holds the digest of its record, so any holder of the record can compute the leaf.
"""

from typing import Final, Literal

from pydantic import Field, JsonValue

from undersong.shared.ids import Digest
from undersong.shared.merkle import proofs as merkle
from undersong.shared.wire.canonical import canonical
from undersong.shared.wire.forms import DigestText, Document
from undersong.shared.wire.forms import SignatureHex as SignatureHex
from undersong.shared.wire.manifest import LogHead as LogHead
from undersong.shared.wire.manifest import head_statement as head_statement
from undersong.shared.wire.records import LEDGER_HEAD as LEDGER_HEAD
from undersong.shared.wire.records import ROUND as ROUND
from undersong.shared.wire.records import BytesHex as BytesHex
from undersong.shared.wire.records import RoundRecord as RoundRecord
from undersong.shared.wire.records import RoundResult as RoundResult

CERTIFICATE_ISSUED: Final = "certificate-issued"
CERTIFICATE_REVOKED: Final = "certificate-revoked"
RESTORED: Final = "restored"


class LogEntry(Document):
    """One leaf: `document` says what happened; `type` and `subject` (a key id, a round, an epoch, a digest) name it."""

    index: int = Field(ge=0, lt=2**63)
    type: Literal["certificate-issued", "certificate-revoked", "round", "restored", "ledger-head"]
    subject: str = Field(max_length=128)
    document: dict[str, JsonValue]

    def leaf(self) -> Digest:
        """Return the leaf's hash."""
        return Digest(leaf_of(self.document).hex())


class InclusionProof(Document):
    """The audit path of leaf `index` in the tree of `size` leaves, from the leaf up."""

    index: int = Field(ge=0, lt=2**63)
    size: int = Field(ge=1, lt=2**63)
    path: tuple[DigestText, ...] = Field(max_length=64)


class ConsistencyProof(Document):
    """Nodes that show the tree of `first` leaves to be a prefix of the tree of `second` leaves."""

    first: int = Field(ge=1, lt=2**63)
    second: int = Field(ge=1, lt=2**63)
    path: tuple[DigestText, ...] = Field(max_length=128)


class LoggedRecord(Document):
    """A round's record with its place in the log, against a signed head."""

    record: RoundRecord
    index: int = Field(ge=0, lt=2**63)
    proof: InclusionProof
    head: LogHead


class LoggedRecords(Document):
    """Records under one head, and that the log only grew up to it since the reader last looked."""

    items: tuple[LoggedRecord, ...]
    consistency: ConsistencyProof | None = None


def leaf_of(document: dict[str, JsonValue]) -> bytes:
    """Return the leaf hash of a log document: 32 bytes."""
    return merkle.leaf_hash(canonical(document))
