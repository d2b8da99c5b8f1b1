"""Federations, sites, and what is known of who is there."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import JSON, Select, String, bindparam, func, insert, select, true, type_coerce, update
from sqlalchemy.exc import IntegrityError

from undersong.services.coordinator.domain.sites import SiteFacts
from undersong.services.coordinator.tables import FederationRow, PlatformRow, SiteRow
from undersong.shared.database import Page, Transaction, UtcDateTime, ordering, page
from undersong.shared.errors import Conflict, no_such
from undersong.shared.ids import FederationId, SiteId
from undersong.shared.names import looks_like
from undersong.shared.wire.profiles import SiteProfile


class NameTaken(Conflict):
    """The name is in use already."""


@dataclass(frozen=True, slots=True)
class Federation:
    """Organisations that learn together."""

    id: FederationId
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Site:
    """One organisation's place in a federation, and what its agent told."""

    id: SiteId
    federation_id: FederationId
    name: str
    owner: str
    suspended: bool
    profile: SiteProfile | None
    profile_at: datetime | None
    last_seen_at: datetime | None
    created_at: datetime

    def facts(self) -> SiteFacts:
        """Return what a job is judged by."""
        return SiteFacts(self.id, self.name, not self.suspended, self.profile)


@dataclass(frozen=True, slots=True)
class Admission:
    """What decides about a site's requests."""

    name: str
    federation_id: FederationId
    suspended: bool


@dataclass(frozen=True, slots=True)
class Watch:
    """The epoch of this database, and since when the API has been there without a gap to hear sites."""

    epoch: int
    since: datetime | None
    last: datetime | None


_SITES = SiteRow.__table__.c
_THESE = _SITES.id.in_(bindparam("sites", expanding=True, type_=String()))
_ADMISSIONS = select(_SITES.id, _SITES.name, _SITES.federation_id, _SITES.suspended).where(_THESE).order_by(_SITES.id)
_ADMISSIONS_LOCKED = _ADMISSIONS.with_for_update()
_PROFILES = select(_SITES.id, _SITES.profile_at, _SITES.profile).where(_THESE)
_PRESENT = select(_SITES.id, _SITES.name, _SITES.profile_at).where(
    _SITES.federation_id == bindparam("federation", type_=String()),
    _SITES.suspended.is_(False),
    _SITES.last_seen_at >= bindparam("since", type_=UtcDateTime()),
)


@dataclass(frozen=True, slots=True)
class SiteFilter:
    """Which sites a list has, and in which order; what is None is not asked for.

    name: a part of the name, in either case. sort: `created` or `name`, falling with a minus before it.
    """

    federation_id: str | None = None
    name: str | None = None
    suspended: bool | None = None
    sort: str = "created"


EVERY_SITE: Final = SiteFilter()


class SiteRepository:
    """Federations and sites in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def add_federation(self, federation: Federation) -> None:
        """Insert; raises `NameTaken`, also where another name looks the same."""
        await check_apart(self._tx, select(FederationRow.name), federation.name)
        await _insert(
            self._tx,
            FederationRow,
            {"id": federation.id, "name": federation.name, "created_at": federation.created_at},
            f"there is a federation {federation.name!r} already",
        )

    async def federation(self, federation_id: str, *, lock: bool = False) -> Federation:
        """Load; raises NotFound. Locked, others who lock it wait: what it has is counted by one at a time."""
        row = await self._session.get(
            FederationRow, federation_id, with_for_update={"key_share": True} if lock else None
        )
        if row is None:
            raise no_such("federation", federation_id)
        return _federation(row)

    async def federation_named(self, name: str) -> Federation | None:
        """Load by name."""
        row = await self._session.scalar(select(FederationRow).where(FederationRow.name == name))
        return _federation(row) if row else None

    async def federations(
        self,
        within: Collection[str] | None,
        limit: int,
        after: str | None,
        *,
        name: str | None = None,
        sort: str = "created",
    ) -> Page[Federation]:
        """Return a page of those in `within` (None is all) that have a part of the name, by `created` or `name`."""
        seen = true() if within is None else FederationRow.id.in_(within)
        query = select(FederationRow).where(seen)
        if name is not None:
            query = query.where(FederationRow.name.icontains(name, autoescape=True))
        by, falling = ordering(sort, {"name": FederationRow.name})
        found = page(self._session, query, FederationRow.id, limit, after, descending=falling, by=by, within=seen)
        return (await found).map(_federation)

    async def add(self, site: Site) -> None:
        """Insert; raises `NameTaken`, also where another name in the federation looks the same."""
        others = select(SiteRow.name).where(SiteRow.federation_id == site.federation_id)
        await check_apart(self._tx, others, site.name)
        values = {
            "id": site.id,
            "federation_id": site.federation_id,
            "name": site.name,
            "owner": site.owner,
            "suspended": site.suspended,
            "created_at": site.created_at,
        }
        await _insert(self._tx, SiteRow, values, f"the federation has a site {site.name!r} already")

    async def get(self, site_id: str, *, lock: bool = False) -> Site:
        """Load, with the row locked where asked; raises NotFound."""
        row = await self._session.get(SiteRow, site_id, with_for_update=lock)
        if row is None:
            raise no_such("site", site_id)
        return _site(row)

    async def admission(self, site_id: str) -> Admission:
        """Return what decides about a site's requests, without its profile; raises NotFound."""
        found = (await self.admissions([site_id])).get(SiteId(site_id))
        if found is None:
            raise no_such("site", site_id)
        return found

    async def admissions(self, site_ids: Sequence[str], *, lock: bool = False) -> dict[SiteId, Admission]:
        """Return what decides about the requests of existing sites, with their rows locked where asked."""
        rows = await self._session.execute(_ADMISSIONS_LOCKED if lock else _ADMISSIONS, {"sites": site_ids})
        return {SiteId(r.id): Admission(r.name, FederationId(r.federation_id), r.suspended) for r in rows}

    async def list(
        self, within: Collection[str] | None, limit: int, after: str | None, chosen: SiteFilter = EVERY_SITE
    ) -> Page[Site]:
        """Return a page of the chosen sites in the federations `within` (None is all)."""
        seen = true() if within is None else SiteRow.federation_id.in_(within)
        query = select(SiteRow).where(seen)
        if chosen.federation_id is not None:
            query = query.where(SiteRow.federation_id == chosen.federation_id)
        if chosen.name is not None:
            query = query.where(SiteRow.name.icontains(chosen.name, autoescape=True))
        if chosen.suspended is not None:
            query = query.where(SiteRow.suspended == chosen.suspended)
        by, falling = ordering(chosen.sort, {"name": SiteRow.name})
        found = page(self._session, query, SiteRow.id, limit, after, descending=falling, by=by, within=seen)
        return (await found).map(_site)

    async def of_federation(self, federation_id: str) -> Sequence[Site]:
        """Return all sites of a federation."""
        rows = await self._session.scalars(select(SiteRow).where(SiteRow.federation_id == federation_id))
        return [_site(row) for row in rows]

    async def present(self, federation_id: str, since: datetime) -> Sequence[SiteFacts]:
        """Return the sites that are not suspended and were heard after `since`.

        Every round's plan asks for them, and profiles are long and seldom change: only what is new is read.
        """
        rows = (await self._session.execute(_PRESENT, {"federation": federation_id, "since": since})).all()
        unread = [row.id for row in rows if row.id not in _profiles or _profiles[row.id][0] != row.profile_at]
        if unread:
            found = await self._session.execute(_PROFILES, {"sites": unread})
            for site_id, told_at, profile in found:
                _profile(site_id, told_at, profile)
        return [SiteFacts(SiteId(row.id), row.name, True, _profiles[row.id][1]) for row in rows]

    async def names(self, site_ids: Iterable[str]) -> dict[str, str]:
        """Site names by id."""
        rows = await self._session.execute(select(SiteRow.id, SiteRow.name).where(SiteRow.id.in_(list(site_ids))))
        return {row.id: row.name for row in rows}

    async def set_profile(self, site_id: str, profile: SiteProfile, now: datetime) -> None:
        """Keep what the agent told of itself; that it told anything shows that it is there."""
        values: dict[str, Any] = {
            "profile": profile.model_dump(mode="json"),
            "profile_at": now,
            "last_seen_at": now,
        }
        await self._session.execute(update(SiteRow).where(SiteRow.id == site_id).values(values))

    async def set_suspended(self, site_id: str, *, suspended: bool) -> None:
        """Suspend a site or let it back."""
        await self._session.execute(update(SiteRow).where(SiteRow.id == site_id).values(suspended=suspended))

    async def mark_seen(self, site_ids: Collection[str], now: datetime) -> None:
        """Heard just now."""
        if site_ids:
            await self._session.execute(
                update(SiteRow).where(SiteRow.id.in_(sorted(site_ids))).values(last_seen_at=now)
            )

    async def online(self, since: datetime) -> int:
        """Return how many sites were heard after `since`."""
        query = select(func.count()).select_from(SiteRow).where(SiteRow.last_seen_at >= since)
        return await self._session.scalar(query) or 0

    async def heard(self, since: datetime) -> int:
        """Return how many sites that are not suspended were heard after `since`."""
        query = select(func.count()).select_from(SiteRow)
        query = query.where(SiteRow.last_seen_at >= since, SiteRow.suspended.is_(False))
        return await self._session.scalar(query) or 0

    async def versions(self, since: datetime) -> Mapping[str, int]:
        """Return how many sites were heard after `since`, by the version that their agent told."""
        version = type_coerce(SiteRow.profile, JSON)["agent_version"].as_string().label("version")
        query = select(version, func.count()).where(SiteRow.last_seen_at >= since).group_by(version)
        return {name or "unknown": count for name, count in await self._session.execute(query)}

    async def watch(self) -> Watch:
        """Return the platform's row."""
        row = await self._session.get(PlatformRow, 1)
        return Watch(row.epoch, row.watching_since, row.watched_at) if row else Watch(0, None, None)

    async def mark_watched(self, now: datetime, longest_gap: timedelta) -> None:
        """Note that an API process is there; a gap since the last time begins the watch anew."""
        watch = await self.watch()
        if watch.last is None or now - watch.last > longest_gap:
            await self._session.execute(update(PlatformRow).values(watching_since=now, watched_at=now))
        else:
            await self._session.execute(update(PlatformRow).values(watched_at=now))

    async def hear_epoch(self, epoch: int) -> int:
        """Return the witness's epoch: ours is never behind it, so that agents see one order of epochs; ours after
        that.
        """
        raised = update(PlatformRow).where(PlatformRow.epoch < epoch).values(epoch=epoch)
        await self._session.execute(raised.execution_options(synchronize_session=False))
        return max(epoch, await self._session.scalar(select(PlatformRow.epoch)) or 0)

    async def bump_epoch(self) -> int:
        """Begin a new epoch: after a restore, agents must not answer rounds that they may have answered before.

        It counts from the clock, because the number of epochs since the copy was made is unknown.
        """
        epoch = max((await self.watch()).epoch + 1, int((await self._tx.now()).timestamp()))
        await self._session.execute(update(PlatformRow).values(epoch=epoch))
        return epoch


async def check_apart(tx: Transaction, others: Select[Any], name: str) -> None:
    """Raise NameTaken where a reader cannot tell the name from one of the others."""
    if said := looks_like(name, await tx.session.scalars(others)):
        raise NameTaken(f"Choose another name{said}.")


async def _insert(tx: Transaction, table: Any, values: dict[str, Any], taken: str) -> None:
    try:
        async with tx.session.begin_nested():
            await tx.session.execute(insert(table).values(values))
    except IntegrityError as error:
        raise NameTaken(f"Choose another name: {taken}.") from error


def _federation(row: FederationRow) -> Federation:
    return Federation(FederationId(row.id), row.name, row.created_at)


def _site(row: SiteRow) -> Site:
    return Site(
        id=SiteId(row.id),
        federation_id=FederationId(row.federation_id),
        name=row.name,
        owner=row.owner,
        suspended=row.suspended,
        profile=_profile(row.id, row.profile_at, row.profile),
        profile_at=row.profile_at,
        last_seen_at=row.last_seen_at,
        created_at=row.created_at,
    )


def _profile(site_id: str, told_at: datetime | None, profile: Mapping[str, Any] | None) -> SiteProfile | None:
    """Return the profile as the agent reported it, parsed once per report."""
    known = _profiles.get(site_id)
    if known is None or known[0] != told_at:
        known = _profiles[site_id] = told_at, SiteProfile.model_validate(profile) if profile else None
    return known[1]


_profiles: dict[str, tuple[datetime | None, SiteProfile | None]] = {}  # one for each site, of a few KiB
