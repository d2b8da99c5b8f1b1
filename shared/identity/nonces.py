"""Nonces of signed requests in SQL, so that a replay is refused by every replica and after every restart."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete

from undersong.shared.database import Database, Gathering, Transaction, insert_for
from undersong.shared.errors import Unavailable

_Entry = tuple[str, str, datetime]


class SqlNonces:
    """A `NonceStore` on the service's own database; requests that arrive together share one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batches = Gathering(self._record)
        # Every signed request runs this, so it is built once; as one VALUES list it would be compiled each time.
        nonces = database.common.nonces
        new = insert_for(database.engine.dialect.name, nonces).on_conflict_do_nothing()
        self._add = new.returning(nonces.c.principal, nonces.c.nonce)

    async def add(self, principal: str, nonce: str, expires_at: datetime) -> bool:
        """Return whether the nonce is new; raises Unavailable when that cannot be known."""
        return await self._batches.ask((principal, nonce, expires_at))

    async def prune(self) -> int:
        """Forget nonces whose signatures are too old to count; how many."""

        async def work(tx: Transaction) -> int:
            table = tx.common.nonces
            result = await tx.session.execute(delete(table).where(table.c.expires_at < await tx.now()))
            return int(getattr(result, "rowcount", 0))

        await self._database.run("nonces.prune", work)
        return 0  # housekeeping is no repair

    async def _record(self, batch: Sequence[_Entry]) -> list[bool | Exception]:
        """Return which are new; of the same nonce twice in one batch, only the first is."""
        new, sure = await self._insert({(principal, nonce): until for principal, nonce, until in batch})
        answers: list[bool | Exception] = []
        seen: set[tuple[str, str]] = set()
        for principal, nonce, _ in batch:
            entry = principal, nonce
            if entry in seen or entry in new or sure:
                answers.append(entry in new and entry not in seen)
            else:
                # A first attempt whose commit was lost in transit looks like a replay; only the client can tell.
                again = "the request could not be recorded; sign it afresh and try again"
                answers.append(Unavailable(again, retry_after_s=0.1))
            seen.add(entry)
        return answers

    async def _insert(self, entries: dict[tuple[str, str], datetime]) -> tuple[set[tuple[str, str]], bool]:
        """Return the entries that were not there before, and whether the others surely were: it took one attempt."""
        attempts = 0

        async def work(tx: Transaction) -> set[tuple[str, str]]:
            nonlocal attempts
            attempts += 1
            rows = [{"principal": p, "nonce": n, "expires_at": at} for (p, n), at in sorted(entries.items())]
            result = await tx.session.execute(self._add, rows)
            return {(row.principal, row.nonce) for row in result}

        new = await self._database.run("nonces.record", work)
        return new, attempts == 1
