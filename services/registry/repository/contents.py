"""SQL of contents: which files there are, and which federation uploaded them."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, select, update

from undersong.services.registry.domain import ContentMissing
from undersong.services.registry.tables import ClaimRow, ContentRow, VersionRow
from undersong.shared.database import Transaction
from undersong.shared.ids import Digest, FederationId


class ContentRepository:
    """Contents and the claims on them within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def expect_content(self, digest: Digest) -> None:
        """Note that this content is coming, or wanted again."""
        now = await self._tx.now()
        insert = self._tx.insert(ContentRow).values(digest=digest, touched_at=now)
        await self._session.execute(
            insert.on_conflict_do_update(index_elements=["digest"], set_={"touched_at": now}),
        )

    async def claim(self, digest: Digest, federation_id: FederationId) -> None:
        """Note that the federation has the content. Call it when the whole body has come, and had this digest."""
        now = await self._tx.now()
        insert = self._tx.insert(ClaimRow).values(digest=digest, federation_id=federation_id, touched_at=now)
        await self._session.execute(
            insert.on_conflict_do_update(index_elements=["digest", "federation_id"], set_={"touched_at": now}),
        )

    async def has_claim(self, digest: Digest, federation_id: FederationId) -> bool:
        """Return whether the federation uploaded the content."""
        return await self._session.get(ClaimRow, (digest, federation_id)) is not None

    async def hold_content(self, digest: Digest, federation_id: FederationId) -> None:
        """Keep the content and the federation's claim from being removed under this transaction.

        Raises ContentMissing where either is gone.
        """
        now = await self._tx.now()
        held = update(ContentRow).where(ContentRow.digest == digest).values(touched_at=now)
        claimed = update(ClaimRow).where(ClaimRow.digest == digest, ClaimRow.federation_id == federation_id)
        for statement in (
            held.returning(ContentRow.digest),
            claimed.values(touched_at=now).returning(ClaimRow.digest),
        ):
            if (await self._session.execute(statement)).first() is None:
                raise no_content(digest)

    async def forget_claims(self, before: datetime) -> None:
        """Remove the claims not touched since, of federations in which no living version needs the content."""
        versions = exists().where(
            VersionRow.content_digest == ClaimRow.digest,
            VersionRow.federation_id == ClaimRow.federation_id,
            VersionRow.deleted_at.is_(None),
        )
        await self._session.execute(delete(ClaimRow).where(ClaimRow.touched_at < before, ~versions))

    async def unused_contents(self, before: datetime, limit: int) -> list[Digest]:
        """Return contents not touched since, that no living version needs and no federation claims."""
        query = select(ContentRow.digest).where(ContentRow.touched_at < before, ~_needed()).limit(limit)
        return [Digest(digest) for digest in await self._session.scalars(query)]

    async def forget_content(self, digest: Digest, before: datetime) -> bool:
        """Remove the row if it is still unused; holds its key until the transaction ends. Whether it was removed."""
        # Lock first and look again after: a publication that we waited for is visible only to the next statement.
        await self._session.execute(select(ContentRow.digest).where(ContentRow.digest == digest).with_for_update())
        unused = (ContentRow.digest == digest, ContentRow.touched_at < before, ~_needed())
        return (
            await self._session.execute(delete(ContentRow).where(*unused).returning(ContentRow.digest))
        ).first() is not None

    async def known_contents(self, digests: Iterable[Digest]) -> set[Digest]:
        """Return those of the digests that have a row."""
        query = select(ContentRow.digest).where(ContentRow.digest.in_(list(digests)))
        return {Digest(digest) for digest in await self._session.scalars(query)}


def no_content(digest: Digest) -> ContentMissing:
    """Make the one answer about content that is nowhere and about content that only other federations uploaded."""
    return ContentMissing(f"The content {digest} is not here: upload it first.")


def _needed() -> Any:
    living = exists().where(VersionRow.content_digest == ContentRow.digest, VersionRow.deleted_at.is_(None))
    return living | exists().where(ClaimRow.digest == ContentRow.digest)
