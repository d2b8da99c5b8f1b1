"""Invitations, certificates and audit entries, as told."""

from datetime import datetime, timedelta
from typing import Any, Final, Literal

from pydantic import Field

from undersong.services.coordinator.peers.keys import CertificateFacts, NewInvitation
from undersong.services.coordinator.repository.audit_log import AuditEntry
from undersong.services.coordinator.views import View

WARNED: Final = timedelta(days=14)  # before its end a certificate is said to end soon


class NewInvitationView(View):
    """An enrolment token for a site: shown here and never again."""

    id: str
    site_id: str
    token: str
    expires_at: datetime
    needs_approval: bool = Field(
        description="Whether an operator of the keys service must approve the key that the site's agent makes."
    )


class SiteCertificateView(View):
    """One of a site's certificates."""

    keyid: str
    state: Literal["valid", "due", "ends-soon", "ended", "revoked"] = Field(
        description="due: its agent should have renewed it, with a third of its life left; ends-soon: within 14 days, "
        "or a tenth of its life where that is less."
    )
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None
    reason: str | None


class AuditEntryView(View):
    """Who changed what; `subject` is the id of what was changed."""

    id: str
    at: datetime
    actor_id: str
    actor: str
    action: str = Field(examples=["site.suspend"])
    subject: str
    federation_id: str | None
    data: dict[str, Any]


def invitation_view(site_id: str, made: NewInvitation) -> NewInvitationView:
    """As told."""
    return NewInvitationView(site_id=site_id, **made.model_dump())


def certificate_view(facts: CertificateFacts, now: datetime) -> SiteCertificateView:
    """As told, with its state at this time."""
    return SiteCertificateView(
        keyid=facts.keyid,
        state=certificate_state(facts.not_before, facts.not_after, facts.revoked_at, now),
        not_before=facts.not_before,
        not_after=facts.not_after,
        revoked_at=facts.revoked_at,
        reason=facts.reason,
    )


def certificate_state(
    begins: datetime, ends: datetime, revoked_at: datetime | None, now: datetime
) -> Literal["valid", "due", "ends-soon", "ended", "revoked"]:
    """Return how a certificate is at this time."""
    if revoked_at is not None:
        return "revoked"
    life, left = ends - begins, ends - now
    if left <= timedelta(0):
        return "ended"
    if left <= min(WARNED, life / 10):
        return "ends-soon"
    return "due" if left + timedelta(hours=1) < life / 3 else "valid"


def entry_view(entry: AuditEntry) -> AuditEntryView:
    """As told."""
    return AuditEntryView(
        id=str(entry.id),
        at=entry.at,
        actor_id=entry.actor_id,
        actor=entry.actor,
        action=entry.action,
        subject=entry.subject,
        federation_id=entry.federation_id,
        data=entry.data,
    )
