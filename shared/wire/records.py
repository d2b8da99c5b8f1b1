"""The record of a round: what anyone needs to check it, as the aggregator hands it in and the log keeps its digest.

The checks are in `undersong.shared.transparency.records`; what an engine adds to them is in its own `audit`.
"""

from typing import Annotated, Final, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from undersong.shared.ids import RoundId, SiteId, VersionId
from undersong.shared.wire.forms import Digestible, DigestText, Document, Name, SignatureHex
from undersong.shared.wire.manifest import SignedManifest

ROUND: Final = "round"
LEDGER_HEAD: Final = "ledger-head"
"""Types of leaves in the log that agents look for."""

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

    roster, sharers (bitmap) and survivors are the engine's own bytes in hexadecimal, null for engines without them.
    bodies: SHA-256 of each update in the sum. upload_signatures: where the engine has bodies signed, the signature of
    each of their sites over it. commitments: survivors' signatures in quorum mode. contributors: the number of updates
    in the sum. complaints: each complainer's signed complaints about dealers, the engine's bytes. faults: codes of what
    sites did against the protocol. samples: committed sample counts (`undersong.shared.zk.samples`) in rounds that take
    them, and in sample_proofs the proofs of those that no earlier record of the job proves. transcript:
    `undersong.shared.transparency.records.transcript_of`.
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
        """Return what the log says about this record."""
        return {
            "type": ROUND,
            "round_id": self.round_id,
            "manifest": self.manifest.manifest.digest(),
            "transcript": self.transcript,
            "record": self.digest(),
        }
