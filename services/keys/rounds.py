"""Round records: checked against what this witness signed, and put into the log once."""

from undersong.services.keys.appending import append
from undersong.services.keys.domain import RecordDiffers
from undersong.services.keys.log import Log
from undersong.services.keys.repository.certificates import CertificateRepository
from undersong.services.keys.repository.log import LogRepository
from undersong.services.keys.restores import PendingMark, RestoreWatch
from undersong.services.keys.witness import coordinator_key
from undersong.shared.database import Transaction
from undersong.shared.errors import NotFound, Unauthenticated
from undersong.shared.identity.authority import Identity, Subject, public_bytes
from undersong.shared.identity.verify import Party
from undersong.shared.ids import Digest
from undersong.shared.transparency.documents import ROUND, LoggedRecord, RoundRecord
from undersong.shared.transparency.records import RecordInvalid, check_record, named_voucher


class RoundRecords:
    """The use cases."""

    def __init__(self, watch: RestoreWatch, log: Log, identity: Identity) -> None:
        self._watch, self._log, self._identity = watch, log, identity

    async def add(self, record: RoundRecord, party: Party) -> tuple[LoggedRecord, bool]:
        """Check the record and log it; the logged record, and whether it is new.

        A record that this witness vouched for carries its own signatures over roster and survivors, which it gives once
        an attempt: so the record is of what was witnessed even where the database no longer remembers it.
        Raises RecordInvalid, RecordDiffers or ManifestUntrusted.
        """

        async def work(tx: Transaction, pending: PendingMark) -> bool:  # noqa: ARG001
            await CertificateRepository(tx).check_in_force(party.keyid)
            repository = LogRepository(tx)
            known = await repository.record_digest(record.round_id)
            if known is not None:
                if known != record.digest():
                    raise RecordDiffers("the log holds another record of this round")
                return False
            check_record(record, await self._witness_key(tx, record), await coordinator_key(tx, record.manifest))
            index = await append(tx, ROUND, record.round_id, record.leaf_document())
            await repository.add_record(record, index, await tx.now())
            return True

        new = await self._watch.run("record.add", work)
        return await self._log.record(record.round_id), new

    async def _witness_key(self, tx: Transaction, record: RoundRecord) -> bytes:
        """Return the key that witnessed the round: this one's, or that of an earlier certificate of this service.

        Where the record names another service's certificate, the key of that.
        """
        named = named_voucher(record)
        if named is not None:
            return await self._voucher_key(tx, *named)
        earlier = await CertificateRepository(tx).witness_key(record.round_id)
        return earlier or public_bytes(self._identity.private_key.public_key())

    @staticmethod
    async def _voucher_key(tx: Transaction, service: str, keyid: Digest) -> bytes:
        try:
            issued = await CertificateRepository(tx).check_in_force(keyid)
        except (NotFound, Unauthenticated) as error:
            raise RecordInvalid(f"the set of updates is not signed by a {service} with a valid certificate") from error
        if issued.subject != Subject("service", service):
            raise RecordInvalid(f"the set of updates is signed by another party than the {service}")
        return issued.public_key
