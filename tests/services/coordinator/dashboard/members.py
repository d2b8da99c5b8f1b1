"""What a person may do about sites, as plain values: one site's certificate ends soon, and the person administers."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from undersong.services.coordinator.dashboard.audit_views import Key
from undersong.services.coordinator.dashboard.member_view import MemberPage
from undersong.services.coordinator.views.members import FederationView


@dataclass
class PlainMembers:
    """In place of `MemberView` where a page only shows; what it does is tested over the coordinator itself."""

    now: datetime
    inviting: bool = True
    lives: dict[str, int] = field(default_factory=lambda: {"site_01k0": 60, "site_01k1": 5, "site_01k2": -1})

    async def page(self) -> MemberPage:
        federations = (FederationView(id="fed_01hearts", name="hearts <b>", created_at=self.now),) * self.inviting
        keys = {}
        for site, left in self.lives.items():
            until = self.now + timedelta(days=left)
            keys[site] = Key(site, "site", "7a" * 32, until - timedelta(days=90), until, None, 0, site)
        return MemberPage(federations, frozenset({"fed_01hearts"} if self.inviting else ()), keys)
