"""Everything that is needed to check one round, and the version that came of it, without asking anyone: one JSON file.

The file has one form only (sorted keys, one space of indentation, ASCII), so that a changed byte never goes unseen.
The checks are in `undersong.shared.transparency.audit`; how the parts are fetched is in
`undersong.shared.transparency.collecting`.
"""

import json
from typing import Final, Literal

from pydantic import Field, JsonValue, ValidationError

from undersong.shared.errors import Invalid
from undersong.shared.ids import ModelId, VersionId
from undersong.shared.transparency.documents import BytesHex, LoggedRecord, SignatureHex
from undersong.shared.wire.forms import DigestText, Document, Name

FORMAT: Final = "undersong-evidence/1"
MAX_BYTES: Final = 256 << 20
MAX_VERSIONS: Final = 100_000


class EvidenceUnreadable(Invalid):
    """The evidence is not a file of this format."""


class VersionSignature(Document):
    """A signature over a version's statement (`undersong.shared.wire.manifest.version_statement`)."""

    role: Literal["publisher", "registry"]
    keyid: DigestText
    signature: SignatureHex


class VersionEvidence(Document):
    """A model version as its publisher and the registry signed it."""

    id: VersionId
    model_id: ModelId
    content_digest: DigestText
    lineage: dict[str, JsonValue]
    signatures: tuple[VersionSignature, ...] = Field(max_length=2)


class Evidence(Document):
    """The bundle. `subject`: the round or version that was asked about; certificates are DER in hexadecimal.

    `versions`: what the round made, or started from, and every ancestor.
    """

    format: Literal["undersong-evidence/1"] = FORMAT
    subject: Name
    authority: BytesHex
    certificates: tuple[BytesHex, ...]
    logged: LoggedRecord
    versions: tuple[VersionEvidence, ...] = Field(default=(), max_length=MAX_VERSIONS)

    def pack(self) -> bytes:
        """Return the file."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False)
        return text.encode() + b"\n"

    @classmethod
    def unpack(cls, data: bytes) -> "Evidence":
        """Read a file strictly; raises EvidenceUnreadable."""
        if len(data) > MAX_BYTES:
            raise EvidenceUnreadable(f"the file is larger than {MAX_BYTES >> 20} MiB")
        try:
            found = cls.model_validate(json.loads(data.decode("ascii")))
            same = found.pack() == data
        except ValidationError as error:
            first = error.errors()[0]
            place = "/".join(str(part) for part in first["loc"])
            raise EvidenceUnreadable(f"{place or 'the document'}: {first['msg']}") from error
        except (ValueError, RecursionError) as error:
            raise EvidenceUnreadable("it is not JSON as this platform writes it") from error
        if not same:
            raise EvidenceUnreadable("it was written in another form, or changed since")
        return found
