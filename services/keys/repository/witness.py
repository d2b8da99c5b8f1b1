"""All SQL of the witness; rows are touched only in this service's turn (`AuthorityRepository.in_turn`)."""

from datetime import datetime

from sqlalchemy import select, update

from undersong.services.keys.domain import NonceUnknown
from undersong.services.keys.tables import WitnessedRoundRow, WitnessStateRow
from undersong.shared.database import Transaction
from undersong.shared.identity.sealing import Sealer

NONCE_PLACE = ("rounds_witnessed", "nonce")


class WitnessRepository:
    """The witness's tables within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def state(self) -> tuple[int, int]:
        """(epoch, counter); zeros before the first start."""
        row = (await self._session.execute(select(WitnessStateRow.epoch, WitnessStateRow.counter))).one_or_none()
        return (0, 0) if row is None else (row.epoch, row.counter)

    async def put_state(self, epoch: int, counter: int) -> None:
        """Store epoch and counter."""
        values = {"epoch": epoch, "counter": counter}
        insert = self._tx.insert(WitnessStateRow).values(id=1, **values)
        await self._session.execute(insert.on_conflict_do_update(index_elements=["id"], set_=values))

    async def find(self, round_id: str) -> WitnessedRoundRow | None:
        """Return the round's row, whose columns the use case fills in."""
        return await self._session.get(WitnessedRoundRow, round_id)

    async def round(self, round_id: str) -> WitnessedRoundRow:
        """Return the same; raises NonceUnknown."""
        row = await self.find(round_id)
        if row is None:
            raise NonceUnknown("this witness committed to no nonce for the round")
        return row

    async def add(self, round_id: str, epoch: int, keyid: str, nonce: bytes, commitment: str, now: datetime) -> None:
        """Begin a round; `nonce` is sealed."""
        self._session.add(
            WitnessedRoundRow(
                round_id=round_id, epoch=epoch, keyid=keyid, nonce=nonce, commitment=commitment, created_at=now
            )
        )
        await self._session.flush()

    async def other_round(self, job_id: str, number: int, attempt: int) -> str | None:
        """Return the id under which a roster of this attempt was signed already."""
        query = select(WitnessedRoundRow.round_id).where(
            WitnessedRoundRow.job_id == job_id,
            WitnessedRoundRow.number == number,
            WitnessedRoundRow.attempt == attempt,
        )
        return (await self._session.scalars(query)).one_or_none()

    async def reseal(self, sealer: Sealer) -> None:
        """Bring the nonces that are still secret under the key file's first key."""
        table, column = NONCE_PLACE
        query = select(WitnessedRoundRow.round_id, WitnessedRoundRow.nonce).where(WitnessedRoundRow.nonce.is_not(None))
        for round_id, nonce in (await self._session.execute(query)).all():
            fresh = sealer.reseal(nonce or b"", table, round_id, column)
            row = update(WitnessedRoundRow).where(WitnessedRoundRow.round_id == round_id)
            await self._session.execute(row.values(nonce=fresh))
