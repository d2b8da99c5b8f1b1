"""The transparency log as its readers see it: signed heads, entries, proofs, records."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from services.keys.appending import log_issued, log_revoked
from services.keys.domain import EntryUnknown, RecordUnknown
from services.keys.log_repository import LogRepository
from services.keys.repository import KeysRepository
from services.keys.restores import RestoreWatch
from shared.database import Database, Transaction
from shared.identity.authority import Identity
from shared.ids import Digest
from shared.transparency import merkle, tree
from shared.transparency.documents import (
    ConsistencyProof,
    InclusionProof,
    LogEntry,
    LoggedRecord,
    LogHead,
    head_statement,
)

_SHOWN: Final = 64


async def backfill(database: Database) -> int:
    """Append what happened before there was a log; how many leaves that were."""

    async def work(tx: Transaction) -> int:
        keys, repository = KeysRepository(tx), LogRepository(tx)
        await keys.in_turn()
        certificates = await repository.unlogged_certificates()
        for keyid in certificates:
            await log_issued(tx, await keys.certificate(keyid))
        revocations = await repository.unlogged_revocations()
        for keyid, at in revocations:
            await log_revoked(tx, keyid, at)
        return len(certificates) + len(revocations)

    return await database.run("log.backfill", work)


class Log:
    """The use cases of readers, each on one snapshot."""

    def __init__(self, database: Database, identity: Identity, watch: RestoreWatch) -> None:
        self._database, self._identity, self._watch = database, identity, watch
        self._shown: OrderedDict[str, LoggedRecord] = OrderedDict()  # every site of a round asks for the same record

    async def head(self) -> LogHead:
        """The log's present size and root, signed."""

        return await self._watch.read("log.head", self._head)

    async def entries(self, start: int, end: int) -> list[LogEntry]:
        """The leaves [start, end), as far as there are any."""
        return await self._database.read("log.entries", lambda tx: LogRepository(tx).entries(start, end))

    async def inclusion(self, index: int, size: int) -> InclusionProof:
        """The audit path of a leaf in the tree of the first `size` leaves; raises EntryUnknown."""

        async def work(tx: Transaction) -> InclusionProof:
            await _check_size(tx, size)
            return await _inclusion(tx, index, size)

        if index >= size:
            raise EntryUnknown(f"a log of {size} entries has none with index {index}")
        return await self._database.read("log.inclusion", work)

    async def consistency(self, first: int, second: int) -> ConsistencyProof:
        """That the first tree is a prefix of the second; raises EntryUnknown."""

        async def work(tx: Transaction) -> ConsistencyProof:
            await _check_size(tx, second)
            ranges = tree.Ranges()
            merkle.consistency_proof(first, second, ranges)
            return ConsistencyProof(first=first, second=second, path=await _hashes(tx, ranges.asked))

        if first > second:
            raise EntryUnknown("a proof runs from the shorter log to the longer")
        return await self._database.read("log.consistency", work)

    async def record(self, round_id: str, federation_id: str | None = None) -> LoggedRecord:
        """A round's record with its proof against the present head; raises RecordUnknown.

        `federation_id`: the only federation whose records the reader may see.
        """

        async def work(tx: Transaction) -> LoggedRecord:
            known = self._shown.get(round_id)
            head = await self._head(tx)
            if known is not None and (known.head.size, known.head.root) == (head.size, head.root):
                return known
            record, index = await LogRepository(tx).record(round_id)
            return LoggedRecord(record=record, index=index, proof=await _inclusion(tx, index, head.size), head=head)

        logged = await self._watch.read("log.record", work)
        if federation_id not in (None, logged.record.manifest.manifest.federation_id):
            raise RecordUnknown("the log holds no record of this round")
        self._shown[round_id] = logged
        self._shown.move_to_end(round_id)
        if len(self._shown) > _SHOWN:
            self._shown.popitem(last=False)
        return logged

    async def _head(self, tx: Transaction) -> LogHead:
        repository = LogRepository(tx)
        size = await repository.size()
        root = tree.hash_of(0, size, await repository.nodes(tree.cover(0, size)))
        at = int((await tx.now()).timestamp() * 1000)
        return LogHead(
            size=size,
            root=Digest(root.hex()),
            timestamp_ms=at,
            keyid=self._identity.keyid,
            signature=self._identity.private_key.sign(head_statement(size, root, at)).hex(),
        )


async def _check_size(tx: Transaction, size: int) -> None:
    present = await LogRepository(tx).size()
    if size > present:
        raise EntryUnknown(f"the log holds {present} entries")


async def _inclusion(tx: Transaction, index: int, size: int) -> InclusionProof:
    ranges = tree.Ranges()
    merkle.inclusion_proof(index, size, ranges)
    path = await _hashes(tx, reversed(ranges.asked))
    return InclusionProof(index=index, size=size, path=path)


async def _hashes(tx: Transaction, ranges: Iterable[tuple[int, int]]) -> tuple[Digest, ...]:
    """The hashes over these ranges of leaves, in their order."""
    wanted = list(ranges)
    known = await LogRepository(tx).nodes(tree.nodes_of(wanted))
    return tuple(Digest(tree.hash_of(start, end, known).hex()) for start, end in wanted)
