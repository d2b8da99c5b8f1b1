"""Models, versions, and who moved their aliases."""

from datetime import datetime
from typing import Any

from pydantic import Field

from undersong.client.types.base import Answer


class Model(Answer):
    """A named model; its versions are immutable."""

    id: str
    name: str
    federation_id: str
    aliases: dict[str, str] = Field(default_factory=dict)
    versions: int | None = None
    created_at: datetime | None = None


class Audit(Answer):
    """A privacy audit of a version; `broken` when its lower bound on epsilon is above the claim."""

    document: dict[str, Any]
    broken: bool = False
    recorded_at: datetime | None = None
    recorded_by: str = ""


class Version(Answer):
    """One immutable version of a model; `audits` are told only of one version."""

    id: str
    model_id: str
    number: int
    content_digest: str
    size: int | None = None
    lineage: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    claim_broken: bool = False
    audits: list[Audit] = Field(default_factory=list)
    created_at: datetime | None = None


class AliasChange(Answer):
    """One change of an alias: `by` is a user's id; without `version_id` it was removed."""

    at: datetime
    by: str
    alias: str
    version_id: str | None = None
    before: str | None = None
    reason: str = ""
