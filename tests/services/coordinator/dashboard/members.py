"""What a person may do about sites and people, as plain values, for pages that only show."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from undersong.services.coordinator.dashboard.audit_views import Key
from undersong.services.coordinator.dashboard.data_views import ColumnItem, DataItem, Form
from undersong.services.coordinator.dashboard.member_view import MemberPage, PeoplePage
from undersong.services.coordinator.views.members import FederationView, RoleView, TokenView, UserView
from undersong.services.coordinator.views.membership import AuditEntryView
from undersong.services.coordinator.views.two_persons import PendingActionView

FEDERATION = "fed_01hearts"


@dataclass
class PlainMembers:
    """In place of `MemberView` where a page only shows; what it does is tested over the coordinator itself."""

    now: datetime
    lives: dict[str, int] = field(default_factory=lambda: {"site_01k0": 60, "site_01k1": 5, "site_01k2": -1})

    async def page(self) -> MemberPage:
        """An administrator's page; certificates that are valid, end soon, and ended."""
        keys = {}
        for site, left in self.lives.items():
            until = self.now + timedelta(days=left)
            keys[site] = Key(site, "site", "7a" * 32, until - timedelta(days=90), until, None, 0, site)
        federation = FederationView(id=FEDERATION, name="hearts <b>", created_at=self.now)
        return MemberPage((federation,), frozenset({FEDERATION}), keys)

    async def people(self) -> PeoplePage:
        """Two users with long names, tokens that never end and that did, and a change that waits."""
        roles = [RoleView(role="owner", federation_id=FEDERATION), RoleView(role="auditor")]
        users = [UserView(id=f"usr_{at}", name=name, roles=roles, created_at=self.now,
                          issuer="https://sign-on.example.org/realms/undersong" if at else None)
                 for at, name in enumerate(("ada", "Wilhelmina-Alexandra of the northern hospital"))]  # fmt: skip
        ended = self.now - timedelta(days=2)
        tokens = [TokenView(id=f"tok_{at}", user_id="usr_0", name="continuous integration <i>", created_at=self.now,
                            expires_at=(None, ended)[at], revoked_at=None, scopes=(None, ["jobs:read"])[at])
                  for at in range(2)]  # fmt: skip
        waits = PendingActionView(
            id="act_1", action="site.suspend", subject="site_01k0", name="Nordklinikum <i>", federation_id=FEDERATION,
            data={}, reason="its key was stolen", state="waiting", requester="Wilhelmina-Alexandra",
            requested_at=self.now, expires_at=self.now + timedelta(days=1), decider=None, decided_at=None, mine=False,
        )  # fmt: skip
        entry = AuditEntryView(
            id="1", at=self.now, actor_id="usr_0", actor="ada", action="pending.request", subject="site_01k0",
            federation_id=FEDERATION, data={"name": "Nordklinikum <i>", "what": "site.suspend"},
        )  # fmt: skip
        named = {FEDERATION: "hearts"}
        return PeoplePage("usr_0", users, {"usr_0": tokens}, named, True, [waits], [entry])

    async def data(self) -> list[DataItem]:
        """One data set that the sites declare differently."""
        sex = ColumnItem("sex", "different", (Form("category: f, m", ("north",)), Form("number", ("south",))), (),
                         ("the sites declare other types",))  # fmt: skip
        age = ColumnItem("age", "partial", (Form("number", ("north",)),), ("south",), ())
        mock = (("age", "sex"), ("0.25", "f"), ("0.75", "m"))
        counts = (("north", 1303), ("south", None))
        labels = (Form("disease", ("north", "south")),)
        absent = (("east", "it is suspended"),)
        return [DataItem("hearts", "heart", False, labels, counts, absent, (age, sex), mock)]
