"""The registry's rules: what a version is, what is refused, which bytes of it are asked for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from undersong.shared.errors import Conflict, Gone, Invalid, Kind, NotFound, Refusal, Unavailable
from undersong.shared.ids import Digest, FederationId, ModelId, VersionId

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,99}$"
ALIAS_PATTERN: Final = r"^[a-z][a-z0-9-]{0,39}$"
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class ModelUnknown(NotFound):
    """There is no such model."""


class ModelNameTaken(Conflict):
    """The federation has a model of this name."""


class DatasheetMissing(NotFound):
    """No privacy datasheet of the version is kept yet."""


class DatasheetRefused(Invalid):
    """The datasheet is not signed by this federation's coordinator, or is about another version."""


class DatasheetOlder(Conflict):
    """A datasheet of the version that was made later is kept already."""


class VersionUnknown(NotFound):
    """There is no such model version."""


class VersionDeleted(Gone):
    """The model version was deleted; its record remains."""


class VersionDiffers(Conflict):
    """This round has already published another version."""


class VersionInUse(Conflict):
    """An alias points at the model version."""


class ContentDamaged(Unavailable):
    """The stored file of this version was damaged and is set aside; it must be stored again."""

    reason = "damaged"  # for the readiness check


class ClaimRefuted(Conflict):
    """A privacy audit refuted what the version claims; no alias is pointed at it."""


@dataclass(frozen=True, slots=True)
class Action:
    """A line of the audit trail."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]


class AliasUnknown(NotFound):
    """The model has no such alias."""


class ContentMissing(Conflict):
    """The federation must upload the content before the version that names it."""


class FederationUnnamed(Invalid):
    """The federation that content is uploaded for is not named."""


class ParentUnknown(Invalid):
    """A parent of the version is unknown, deleted, or of another federation."""


class ShapesDiffer(Invalid):
    """The tensors are not those of the parent version."""


class PublisherUnproven(Invalid):
    """The publisher's signature is missing, or does not fit the statement and the certificate."""


class RangeNotSatisfiable(Refusal):
    """The range lies outside of the content."""

    kind = Kind.RANGE_NOT_SATISFIABLE


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A named line of versions within one federation; `versions` counts all that were ever published."""

    id: ModelId
    federation_id: FederationId
    name: str
    versions: int
    created_at: datetime
    created_by: str
    aliases: Mapping[str, VersionId]


@dataclass(frozen=True, slots=True)
class Content:
    """What a model file holds: `size` in bytes, one entry a tensor, and the digest of the tensors themselves."""

    digest: Digest
    size: int
    tensor_digest: Digest
    tensors: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Signature:
    """An Ed25519 signature (hex) over the version's statement; role "publisher" or "registry"."""

    role: str
    keyid: str
    signature: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics measured after publication; records are only ever added."""

    metrics: Mapping[str, float]
    recorded_at: datetime
    recorded_by: str


@dataclass(frozen=True, slots=True)
class Audit:
    """A privacy audit after publication; records are only ever added.

    `document` is exactly what was sent; `signature` (hex) is the registry's, over it and who sent it when
    (`undersong.shared.wire.manifest.audit_statement`).
    """

    document: Mapping[str, Any]
    recorded_at: datetime
    recorded_by: str
    keyid: str
    signature: str

    @property
    def broken(self) -> bool:
        """Whether it found a lower bound on epsilon above what was claimed."""
        bound, claim = self.document.get("epsilon_lower_bound"), self.document.get("claim")
        return bound is not None and claim is not None and bound > claim["epsilon"]


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What remains to be said of a deleted version."""

    deleted_at: datetime
    deleted_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Version:
    """An immutable model version. `lineage` is exactly what the publisher signed."""

    id: VersionId
    model_id: ModelId
    federation_id: FederationId
    number: int
    content: Content
    lineage: Mapping[str, Any]
    signatures: Sequence[Signature]
    created_at: datetime
    created_by: str
    tombstone: Tombstone | None = None
    evaluations: Sequence[Evaluation] = ()
    audits: Sequence[Audit] = ()

    @property
    def claim_broken(self) -> bool:
        """Whether any audit refuted its privacy claim."""
        return any(audit.broken for audit in self.audits)

    def alive(self) -> "Version":
        """Return the version itself; raises VersionDeleted."""
        if self.tombstone is not None:
            raise VersionDeleted(f"The version was deleted: {self.tombstone.reason}")
        return self


def natural_key(job_id: str | None, round_id: str | None, content_digest: Digest) -> str:
    """Return what a version is published once for: a round of a job, or, when it is brought in from outside, its
    content.
    """
    return f"{job_id}/{round_id}" if job_id and round_id else f"import/{content_digest}"


def check_same(present: Version, content_digest: Digest, lineage: Mapping[str, Any]) -> Version:
    """Return the published version, when it is asked for again; raises VersionDiffers when something else is."""
    if present.content.digest != content_digest or dict(present.lineage) != dict(lineage):
        raise VersionDiffers("This round has already published a version with other content or lineage.")
    return present


def check_shapes(content: Content, parent: Version) -> None:
    """Training changes numbers, never names, shapes, types or roles; raises ShapesDiffer."""
    if _shapes(content) != _shapes(parent.content):
        raise ShapesDiffer(f"The tensors differ from those of the parent version {parent.id}.")


def _shapes(content: Content) -> list[tuple[Any, ...]]:
    return [(t["name"], tuple(t["shape"]), t["dtype"], t["role"]) for t in content.tensors]


def asked_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the half-open byte range that a Range header asks for; None for everything.

    A header in another unit, with several ranges or malformed is ignored, as RFC 9110 allows. Raises
    RangeNotSatisfiable.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= end:
        raise RangeNotSatisfiable(f"The content has {size} bytes.", size=size)
    return start, end
