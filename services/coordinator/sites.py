"""Sites: registered by people, told about by their agents, suspended and let back."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from undersong.services.coordinator.attendance import Attendance
from undersong.services.coordinator.domain.sites import SiteFacts, lacks_dataset
from undersong.services.coordinator.domain.tasks import SiteTask
from undersong.services.coordinator.domain.two_persons import ONE_PERSON, TwoPersonRule
from undersong.services.coordinator.leases import SiteUnknown
from undersong.services.coordinator.moves import move
from undersong.services.coordinator.repository.audit_log import note
from undersong.services.coordinator.repository.rounds import RoundRepository
from undersong.services.coordinator.repository.sites import EVERY_SITE, Site, SiteFilter, SiteRepository
from undersong.services.coordinator.repository.tasks import TaskRepository
from undersong.services.coordinator.views.jobs import ExclusionView, exclusion_view
from undersong.services.coordinator.views.members import ComparisonView, SiteView, comparison_view, site_view
from undersong.shared.database import Database, Page, Transaction
from undersong.shared.errors import NotFound, no_such
from undersong.shared.ids import FederationId, SiteId, new_id
from undersong.shared.names import hint
from undersong.shared.web.access import Principal, Role
from undersong.shared.web.idempotency import Once
from undersong.shared.wire.profiles import SiteProfile

_PAGE: Final = 200


class Sites:
    """What people and agents do with sites."""

    def __init__(
        self, database: Database, attendance: Attendance, lease: timedelta, rule: TwoPersonRule = ONE_PERSON
    ) -> None:
        self._database, self._attendance, self._lease, self._rule = database, attendance, lease, rule

    async def create(self, person: Principal, federation_id: str, name: str, owner: str, once: Once) -> SiteView:
        """Register a site; its agent enrols afterwards under the id that is given here."""
        person.check(Role.ADMIN, federation_id=federation_id)

        async def work(tx: Transaction) -> SiteView:
            sites = SiteRepository(tx)
            await sites.federation(federation_id)
            site = Site(
                id=SiteId(new_id("site")),
                federation_id=FederationId(federation_id),
                name=name,
                owner=owner,
                suspended=False,
                profile=None,
                profile_at=None,
                last_seen_at=None,
                created_at=await tx.now(),
            )
            await sites.add(site)
            await note(tx, person, "site.create", site.id, site.federation_id, name=name, owner=owner)
            return site_view(site, site.created_at)

        return await self._database.run("site.create", once(work))

    async def get(self, person: Principal, site_id: str) -> SiteView:
        """Return a site of the person's federations."""

        async def work(tx: Transaction) -> SiteView:
            site = await SiteRepository(tx).get(site_id)
            person.check(*Role, federation_id=site.federation_id, hidden=no_such("site", site_id))
            return site_view(site, await tx.now() - self._lease)

        return await self._database.read("site.get", work)

    async def list(
        self, person: Principal, limit: int, after: str | None, chosen: SiteFilter = EVERY_SITE
    ) -> Page[SiteView]:
        """Return the chosen sites of the person's federations, by default all, oldest first."""

        async def work(tx: Transaction) -> Page[SiteView]:
            heard_since = await tx.now() - self._lease
            found = await SiteRepository(tx).list(person.federations(), limit, after, chosen)
            return found.map(lambda site: site_view(site, heard_since))

        return await self._database.read("sites.list", work)

    async def compare(self, person: Principal, federation_id: str, dataset: str) -> ComparisonView:
        """Compare how the active sites of a federation declare a data set; raises NotFound with the near matches."""
        person.check(*Role, federation_id=federation_id)

        async def work(tx: Transaction) -> list[SiteFacts]:
            sites = SiteRepository(tx)
            await sites.federation(federation_id)
            return [site.facts() for site in await sites.of_federation(federation_id)]

        members = await self._database.read("sites.compare", work)
        if all(lacks_dataset(site, dataset) for site in members):
            raise NotFound(f"No active site has the data set {dataset!r}{hint(dataset, _datasets(members))}.")
        return comparison_view(federation_id, dataset, members)

    async def comparisons(self, person: Principal) -> Sequence[ComparisonView]:
        """Compare every data set of the person's federations."""

        async def work(tx: Transaction) -> dict[str, list[SiteFacts]]:
            members: dict[str, list[SiteFacts]] = {}
            after = None
            while True:
                page = await SiteRepository(tx).list(person.federations(), _PAGE, after)
                for site in page.items:
                    members.setdefault(site.federation_id, []).append(site.facts())
                after = page.next
                if after is None:
                    return members

        found = []
        for federation_id, members in (await self._database.read("sites.compare", work)).items():
            found += [comparison_view(federation_id, name, members) for name in _datasets(members)]
        return found

    async def tell_profile(self, site_id: SiteId, federation_id: str | None, profile: SiteProfile) -> SiteView:
        """Keep what an agent tells of itself; a suspended site may tell too."""

        async def work(tx: Transaction) -> SiteView:
            sites = SiteRepository(tx)
            try:
                site = await sites.get(site_id)
            except NotFound:
                raise SiteUnknown(f"There is no site {site_id}.") from None
            if site.federation_id != federation_id:
                raise SiteUnknown(f"Site {site_id} does not belong to federation {federation_id}.")
            now = await tx.now()
            await sites.set_profile(site_id, profile, now)
            tx.session.expire_all()
            return site_view(await sites.get(site_id), now - self._lease)

        self._attendance.mark(site_id)
        return await self._database.run("site.profile", work)

    async def exclusions(self, site_id: SiteId) -> Sequence[ExclusionView]:
        """Return the running jobs in whose later rounds this site has no part, and why."""

        async def work(tx: Transaction) -> Sequence[ExclusionView]:
            names = await SiteRepository(tx).names([site_id])
            return [exclusion_view(t, names.get(site_id)) for t in await TaskRepository(tx).exclusions(site_id)]

        return await self._database.read("site.exclusions", work)

    async def suspend(self, person: Principal, site_id: str) -> SiteView:
        """Give the site no task any more and reclaim what it has. Idempotent.

        Raises SecondPersonNeeded where the two-person rule is on.
        """

        async def work(tx: Transaction) -> SiteView:
            await suspend_site(tx, person, site_id, self._rule)
            tx.session.expire_all()
            return site_view(await SiteRepository(tx).get(site_id), await tx.now() - self._lease)

        return await self._database.run("site.suspend", work)

    async def readmit(self, person: Principal, site_id: str) -> SiteView:
        """Let a suspended site back."""

        async def work(tx: Transaction) -> SiteView:
            sites = SiteRepository(tx)
            site = await sites.get(site_id, lock=True)
            person.check(Role.OWNER, federation_id=site.federation_id, hidden=no_such("site", site_id))
            if site.suspended:
                await note(tx, person, "site.resume", site.id, site.federation_id, name=site.name)
            await sites.set_suspended(site_id, suspended=False)
            tx.session.expire_all()
            return site_view(await sites.get(site_id), await tx.now() - self._lease)

        return await self._database.run("site.readmit", work)


async def suspend_site(tx: Transaction, person: Principal, site_id: str, rule: TwoPersonRule = ONE_PERSON) -> None:
    """Suspend a site, within the caller's transaction; a second time changes nothing."""
    sites = SiteRepository(tx)
    site = await sites.get(site_id, lock=True)
    person.check(Role.OWNER, federation_id=site.federation_id, hidden=no_such("site", site_id))
    if not site.suspended:
        rule.check("site.suspend", site_id)
        await note(tx, person, "site.suspend", site.id, site.federation_id, name=site.name)
    await sites.set_suspended(site_id, suspended=True)
    for task in await TaskRepository(tx).outstanding_of_site(site_id):
        await _take_away(tx, task)


async def _take_away(tx: Transaction, found: SiteTask) -> None:
    round_ = await RoundRepository(tx).get(found.round_id, lock=True)
    before = await TaskRepository(tx).get(found.id, lock=True)
    after = before.reject("site-suspended", "The site was suspended.", await tx.now())
    await move(tx, before, after, round_, "coordinator")


def _datasets(sites: Sequence[SiteFacts]) -> list[str]:
    """Return the names of the active sites' data sets."""
    active = [site.profile for site in sites if site.active and site.profile is not None]
    return sorted({schema.name for profile in active for schema in profile.datasets})
