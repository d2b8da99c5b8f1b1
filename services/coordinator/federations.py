"""Federations: organisations that learn together."""

from undersong.services.coordinator.repository.audit_log import note
from undersong.services.coordinator.repository.sites import Federation, SiteRepository
from undersong.services.coordinator.views.members import FederationView, federation_view
from undersong.shared.database import Database, Page, Transaction
from undersong.shared.ids import FederationId, new_id
from undersong.shared.web.access import Grant, Principal, Role
from undersong.shared.web.idempotency import Once


class Federations:
    """What people do with federations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, person: Principal, name: str, once: Once) -> FederationView:
        """Return a new federation; only who administers all of them may make one."""
        _everywhere(person)

        async def work(tx: Transaction) -> FederationView:
            federation = Federation(FederationId(new_id("fed")), name, await tx.now())
            await SiteRepository(tx).add_federation(federation)
            await note(tx, person, "federation.create", federation.id, federation.id, name=name)
            return federation_view(federation)

        return await self._database.run("federation.create", once(work))

    async def get(self, person: Principal, federation_id: str) -> FederationView:
        """Return a federation in which the person has a role."""
        person.check(*Role, federation_id=federation_id)

        async def work(tx: Transaction) -> FederationView:
            return federation_view(await SiteRepository(tx).federation(federation_id))

        return await self._database.read("federation.get", work)

    async def list(
        self, person: Principal, limit: int, after: str | None, *, name: str | None = None, sort: str = "created"
    ) -> Page[FederationView]:
        """Return the federations in which the person has a role."""

        async def work(tx: Transaction) -> Page[FederationView]:
            found = await SiteRepository(tx).federations(person.federations(), limit, after, name=name, sort=sort)
            return found.map(federation_view)

        return await self._database.read("federations.list", work)


def _everywhere(person: Principal) -> None:
    """Admin of all federations; an admin of one is refused like anybody else."""
    if Grant(Role.ADMIN, None) not in person.grants:
        Principal(person.user_id, person.name, ()).check(Role.ADMIN)
