"""What the client does with federations and sites.

Generated from `aio/federations.py` by `make client`: change that file.
"""

from undersong.client import naming
from undersong.client import types as t
from undersong.client.calls import federations as calls
from undersong.client.sync.connection import Connection


class FederationMethods(Connection):
    """Methods about federations and sites."""

    def create_federation(self, name: str) -> t.Federation:
        """Create a federation and return it (administrator of all federations)."""
        return self.send(calls.create_federation(name))

    def federations(self) -> list[t.Federation]:
        """Return every federation that the caller may see, oldest first."""
        return self.all(calls.federations)

    def federation(self, name: str | None = None) -> t.Federation:
        """Return the federation with this id or name, without one the only federation.

        Raises UndersongError with the near matches where no federation, or not exactly one, fits.
        """
        return naming.one_federation(self.federations(), name)

    def create_site(self, federation_id: str, name: str, owner: str = "") -> t.Site:
        """Add a site to a federation; `owner` is the organisation, by default called as the site (administrator)."""
        return self.send(calls.create_site(federation_id, name, owner or name))

    def sites(self, federation_id: str | None = None) -> list[t.Site]:
        """Return every site of one federation, or of all that the caller may see, oldest first."""
        return self.all(lambda after: calls.sites(federation_id, after))

    def site(self, site_id: str) -> t.Site:
        """Return one site with its profile."""
        return self.send(calls.site(site_id))

    def compare_data(self, federation_id: str, dataset: str) -> t.Comparison:
        """Compare how the federation's sites declare a data set."""
        return self.send(calls.compare_data(federation_id, dataset))

    def suspend_site(self, site_id: str) -> None:
        """Keep a site out of new rounds. Idempotent."""
        self.send(calls.suspend_site(site_id))

    def unsuspend_site(self, site_id: str) -> None:
        """Let a suspended site take part again. Idempotent."""
        self.send(calls.unsuspend_site(site_id))

    def create_enrolment_token(
        self, kind: str, name: str, federation_id: str | None = None, expires_in_s: int = 86_400
    ) -> t.EnrolmentToken:
        """Create a single-use token with which a site's agent or a service enrols (operator)."""
        return self.send(calls.create_enrolment_token(kind, name, federation_id, expires_in_s))

    def invite_site(self, site_id: str, expires_in_s: int = 86_400) -> t.SiteInvitation:
        """Make a single-use enrolment token for a site, also for one that lost its key (admin).

        The coordinator asks the keys service for it; where `needs_approval`, an operator approves the site's key.
        """
        return self.send(calls.invite_site(site_id, expires_in_s))

    def invitations(self, site_id: str | None = None) -> list[t.Invitation]:
        """Return the invitations of a site or of all, with the keys that wait for approval (operator)."""
        return self.all(lambda after: calls.invitations(site_id, after))

    def approve_invitation(self, invitation_id: str, fingerprint: str) -> t.Invitation:
        """Approve the key with this fingerprint, which was compared with the site's own (operator). Idempotent."""
        return self.send(calls.approve_invitation(invitation_id, fingerprint))

    def site_certificates(self, site_id: str) -> list[t.SiteCertificate]:
        """Return a site's certificates with their ends, the last first."""
        return self.send(calls.site_certificates(site_id)).items
