"""What the log holds and what proves it: documents. The checks over them are in `shared.transparency.records`.

A leaf is the canonical form (`shared.wire.canonical`) of a small document that says what happened; a round's leaf
holds the digest of its record, so whoever has the record can work the leaf out.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from shared.ids import Digest, RoundId, SiteId, VersionId
from shared.merkle import proofs as merkle
from shared.wire.canonical import canonical
from shared.wire.forms import Digestible, DigestText, Document, Name
from shared.wire.forms import SignatureHex as SignatureHex
from shared.wire.manifest import LogHead as LogHead
from shared.wire.manifest import SignedManifest
from shared.wire.manifest import head_statement as head_statement

CERTIFICATE_ISSUED: Final = "certificate-issued"
CERTIFICATE_REVOKED: Final = "certificate-revoked"
ROUND: Final = "round"
RESTORED: Final = "restored"

BytesHex = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{2})*$", max_length=2**25)]


def _empty(found: dict[str, str]) -> bool:
    """Left out, so that records from before there was such a field keep their digests."""
    return not found


class RoundResult(Document):
    """What came of the round: a model version, or the digest of the opened values (statistics, evaluate)."""

    version_id: VersionId | None = None
    content_digest: DigestText | None = None
    values_digest: DigestText | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        is_version = self.version_id is not None and self.content_digest is not None and self.values_digest is None
        is_values = self.version_id is None and self.content_digest is None and self.values_digest is not None
        if is_version == is_values:
            raise ValueError("a result is version_id with content_digest, or values_digest")
        return self


class RoundRecord(Digestible):
    """All that anyone needs to check a published round, and nothing that shows an update.

    roster, sharers (bitmap) and survivors are the engine's own bytes in hexadecimal, null for engines without them;
    survivors of `twoserver` is what the helper signed (`shared.secagg.twoserver.messages.Evidence`).
    bodies: SHA-256 of each update in the sum. upload_signatures: for engine `pairwise` the signature of each of their
    sites over it. commitments: survivors' signatures in quorum mode. contributors: the number of updates in the sum.
    complaints: each complainer's signed complaints about dealers, the engine's bytes. faults: codes of what sites did
    against the protocol. samples: committed sample counts (`shared.zk.samples`) in rounds that take them, and in
    sample_proofs the proofs of those that no earlier record of the job proves. transcript:
    `shared.transparency.records.transcript_of`.
    """

    manifest: SignedManifest
    engine: Name
    roster: BytesHex | None = None
    sharers: BytesHex | None = None
    survivors: BytesHex | None = None
    bodies: dict[SiteId, DigestText]
    upload_signatures: dict[SiteId, SignatureHex] = Field(default_factory=dict, exclude_if=_empty)
    commitments: dict[SiteId, SignatureHex] = Field(default_factory=dict)
    sum_digest: DigestText
    transcript: DigestText
    result: RoundResult
    contributors: int = Field(ge=1, strict=True)
    complaints: dict[SiteId, BytesHex] = Field(default_factory=dict, exclude_if=_empty)
    faults: dict[SiteId, Name] = Field(default_factory=dict, exclude_if=_empty)
    samples: dict[SiteId, DigestText] = Field(default_factory=dict, exclude_if=_empty)
    sample_proofs: dict[SiteId, BytesHex] = Field(default_factory=dict, exclude_if=_empty)

    @property
    def round_id(self) -> RoundId:
        """The round that this is the record of."""
        return self.manifest.manifest.round_id

    def leaf_document(self) -> dict[str, JsonValue]:
        """What the log says about this record."""
        return {
            "type": ROUND,
            "round_id": self.round_id,
            "manifest": self.manifest.manifest.digest(),
            "transcript": self.transcript,
            "record": self.digest(),
        }


class LogEntry(Document):
    """One leaf: `document` says what happened; `type` and `subject` (a key id, a round id, an epoch) name it."""

    index: int = Field(ge=0, lt=2**63)
    type: Literal["certificate-issued", "certificate-revoked", "round", "restored"]
    subject: str = Field(max_length=128)
    document: dict[str, JsonValue]

    def leaf(self) -> Digest:
        """The leaf's hash."""
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
    """The leaf hash of a log document: 32 bytes."""
    return merkle.leaf_hash(canonical(document))
