"""Privacy datasheets: kept with their versions as the coordinator signed them, and shown to who may see the version."""

from collections.abc import Callable

from undersong.services.registry.access import Asker, check_reader, no_version
from undersong.services.registry.domain import DatasheetOlder, DatasheetRefused
from undersong.services.registry.repository.datasheets import DatasheetRepository
from undersong.services.registry.repository.models import ModelRepository
from undersong.shared.database import Database, Transaction
from undersong.shared.identity.authority import Identity, keyid_of
from undersong.shared.transparency.datasheet import DatasheetInvalid, SignedDatasheet, check_datasheet


class DatasheetStore:
    """The use cases; `signer` gives the registry's identity, whose authority must have certified who signs a sheet."""

    def __init__(self, database: Database, signer: Callable[[], Identity]) -> None:
        self._database, self._signer = database, signer

    async def put(self, version_id: str, signed: SignedDatasheet) -> bool:
        """Keep a datasheet, and return whether it is new. Idempotent.

        Raises DatasheetRefused for one that is not the coordinator's or of another version, and DatasheetOlder for one
        that was made before the newest that is kept.
        """
        try:
            sheet = check_datasheet(signed, keyid_of(self._signer().ca_certificate))
        except DatasheetInvalid as refusal:
            raise DatasheetRefused(refusal.detail) from refusal

        async def work(tx: Transaction) -> bool:
            version = (await ModelRepository(tx).version(version_id, lock=True)).alive()
            said = (sheet.subject.version_id, sheet.subject.content_digest, sheet.subject.federation_id)
            if said != (version.id, version.content.digest, version.federation_id):
                raise DatasheetRefused("The datasheet is about another version.")
            repository = DatasheetRepository(tx)
            if await repository.has(version_id, sheet.digest()):
                return False
            kept = await repository.made_at(version_id)
            if kept is not None and sheet.made_at < kept:
                raise DatasheetOlder("A datasheet that was made later is kept already.")
            await repository.add(signed, await tx.now())
            return True

        return await self._database.run("datasheet.put", work)

    async def get(self, asker: Asker, version_id: str) -> SignedDatasheet:
        """Return the newest datasheet of a version; raises VersionUnknown or DatasheetMissing."""

        async def work(tx: Transaction) -> SignedDatasheet:
            version = await ModelRepository(tx).version(version_id)
            check_reader(asker, version.federation_id, no_version(version_id))
            return await DatasheetRepository(tx).newest(version_id)

        return await self._database.read("datasheet.get", work)

    async def stale(self, limit: int) -> list[str]:
        """Return versions that were audited after their newest datasheet, for the coordinator."""
        return await self._database.read("datasheet.stale", lambda tx: DatasheetRepository(tx).stale(limit))
