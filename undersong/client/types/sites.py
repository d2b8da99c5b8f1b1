"""Federations, sites, their data and certificates."""

from datetime import datetime
from typing import Any

from pydantic import Field

from undersong.client.types.base import Answer


class Federation(Answer):
    """Organisations that learn together."""

    id: str
    name: str
    created_at: datetime | None = None


class Site(Answer):
    """One member of a federation, with what its agent told about itself."""

    id: str
    name: str
    federation_id: str
    owner: str | None = None
    state: str = "unknown"
    online: bool = False
    last_seen_at: datetime | None = None
    profile: dict[str, Any] | None = None


class ColumnComparison(Answer):
    """One column of a data set over the sites that have it; `state` is same, matched, partial or different."""

    name: str
    state: str
    agreed: dict[str, Any] | None = None
    declared: dict[str, dict[str, Any]] = Field(default_factory=dict)
    missing: list[str] = Field(default_factory=list)
    faults: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class Comparison(Answer):
    """A data set as the sites of a federation declare it; `absent` are the other sites, each with the reason."""

    dataset: str
    sites: list[str]
    absent: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str | None] = Field(default_factory=dict)
    matches: bool
    columns: list[ColumnComparison]


class EnrolmentToken(Answer):
    """A single-use token that lets one agent or service enrol."""

    token_id: str
    token: str
    expires_at: datetime


class SiteInvitation(Answer):
    """A site's enrolment token, shown once; `needs_approval`: an operator approves the key that uses it."""

    id: str
    site_id: str
    token: str
    expires_at: datetime
    needs_approval: bool = True


class Invitation(Answer):
    """An invitation at the keys service; `fingerprint` is of the key that asked for a certificate."""

    id: str
    site_id: str
    federation_id: str | None = None
    invited_by: str = ""
    state: str
    fingerprint: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None


class SiteCertificate(Answer):
    """A site's certificate; `state` is valid, due, ends-soon, ended or revoked."""

    keyid: str
    state: str
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None = None
    reason: str | None = None
