"""Requests about federations and sites."""

from typing import Any

from undersong.client import types as t
from undersong.client.calls.call import Call, get, post, quoted


def create_federation(name: str) -> Call[t.Federation]:
    """Make a federation."""
    return post("coordinator", "/federations", t.Federation, {"name": name})


def federations(after: str | None = None) -> Call[t.Page[t.Federation]]:
    """Return the federations that the caller may see."""
    return get("coordinator", "/federations", t.Page[t.Federation], after=after)


def create_site(federation_id: str, name: str, owner: str) -> Call[t.Site]:
    """Add a member to a federation."""
    return post("coordinator", f"/federations/{quoted(federation_id)}/sites", t.Site, {"name": name, "owner": owner})


def sites(federation_id: str | None = None, after: str | None = None) -> Call[t.Page[t.Site]]:
    """Sites, of one federation or of all that the caller may see."""
    return get("coordinator", "/sites", t.Page[t.Site], federation_id=federation_id, after=after)


def site(site_id: str) -> Call[t.Site]:
    """Return one site with its profile."""
    return get("coordinator", f"/sites/{quoted(site_id)}", t.Site)


def compare_data(federation_id: str, dataset: str) -> Call[t.Comparison]:
    """Return how the federation's sites declare a data set."""
    return get("coordinator", f"/federations/{quoted(federation_id)}/comparison", t.Comparison, dataset=dataset)


def suspend_site(site_id: str) -> Call[dict[str, Any]]:
    """Keep a site out of new rounds."""
    return post("coordinator", f"/sites/{quoted(site_id)}/suspension", dict[str, Any])


def unsuspend_site(site_id: str) -> Call[dict[str, Any]]:
    """Let a suspended site take part again."""
    return Call("coordinator", "DELETE", f"/sites/{quoted(site_id)}/suspension", dict[str, Any])


def invite_site(site_id: str, expires_in_s: int) -> Call[t.SiteInvitation]:
    """Make a single-use enrolment token for a site."""
    return post(
        "coordinator", f"/sites/{quoted(site_id)}/invitations", t.SiteInvitation, {"expires_in_s": expires_in_s}
    )


def site_certificates(site_id: str) -> Call[t.Page[t.SiteCertificate]]:
    """Return a site's certificates."""
    return get("coordinator", f"/sites/{quoted(site_id)}/certificates", t.Page[t.SiteCertificate])


def create_enrolment_token(
    kind: str, name: str, federation_id: str | None, expires_in_s: int
) -> Call[t.EnrolmentToken]:
    """Return a single-use token with which a site's agent or a service enrols (operator)."""
    body = {"kind": kind, "name": name, "federation_id": federation_id, "expires_in_s": expires_in_s}
    return post("keys", "/enrolment-tokens", t.EnrolmentToken, {k: v for k, v in body.items() if v is not None})


def invitations(site_id: str | None = None, after: str | None = None) -> Call[t.Page[t.Invitation]]:
    """Return the invitations of a site or of all (operator)."""
    return get("keys", "/invitations", t.Page[t.Invitation], site_id=site_id, after=after)


def approve_invitation(invitation_id: str, fingerprint: str) -> Call[t.Invitation]:
    """Approve the key that asked under an invitation (operator)."""
    return post("keys", f"/invitations/{quoted(invitation_id)}/approvals", t.Invitation, {"fingerprint": fingerprint})
