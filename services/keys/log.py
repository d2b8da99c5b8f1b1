"""The transparency log as its readers see it: signed heads, entries, proofs, records."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from undersong.services.keys.appending import log_issued, log_revoked
from undersong.services.keys.domain import EntryUnknown, RecordUnknown
from undersong.services.keys.repository.authority import AuthorityRepository
from undersong.services.keys.repository.certificates import CertificateRepository
from undersong.services.keys.repository.log import LogRepository
from undersong.services.keys.restores import RestoreWatch
from undersong.shared.database import Database, Transaction
from undersong.shared.identity.authority import Identity
from undersong.shared.ids import Digest
from undersong.shared.merkle import proofs as merkle
from undersong.shared.merkle import tree
from undersong.shared.transparency.documents import (
    ConsistencyProof,
    InclusionProof,
    LogEntry,
    LoggedRecord,
    LoggedRecords,
    LogHead,
    RoundRecord,
    head_statement,
)

_KEPT: Final = 64


async def backfill(database: Database) -> int:
    """Append what happened before there was a log; how many leaves that were."""

    async def work(tx: Transaction) -> int:
        repository = LogRepository(tx)
        await AuthorityRepository(tx).in_turn()
        certificates = await repository.unlogged_certificates()
        for keyid in certificates:
            await log_issued(tx, await CertificateRepository(tx).certificate(keyid))
        revocations = await repository.unlogged_revocations()
        for keyid, at in revocations:
            await log_revoked(tx, keyid, at)
        return len(certificates) + len(revocations)

    return await database.run("log.backfill", work)


class Log:
    """The use cases of readers, each on one snapshot."""

    def __init__(self, database: Database, identity: Identity, watch: RestoreWatch) -> None:
        self._database, self._identity, self._watch = database, identity, watch
        self._read: OrderedDict[str, tuple[RoundRecord, int]] = OrderedDict()

    async def head(self) -> LogHead:
        """Return the log's present size and root, signed."""

        return await self._watch.read("log.head", self._head)

    async def entries(self, start: int, end: int) -> list[LogEntry]:
        """Return the leaves [start, end), as far as there are any."""
        return await self._database.read("log.entries", lambda tx: LogRepository(tx).entries(start, end))

    async def inclusion(self, index: int, size: int) -> InclusionProof:
        """Return the audit path of a leaf in the tree of the first `size` leaves; raises EntryUnknown."""

        async def work(tx: Transaction) -> InclusionProof:
            await _check_size(tx, size)
            return (await _inclusions(tx, [index], size))[0]

        if index >= size:
            raise EntryUnknown(f"a log of {size} entries has none with index {index}")
        return await self._database.read("log.inclusion", work)

    async def consistency(self, first: int, second: int) -> ConsistencyProof:
        """Return the proof that the first tree is a prefix of the second; raises EntryUnknown."""

        async def work(tx: Transaction) -> ConsistencyProof:
            await _check_size(tx, second)
            return await _consistency(tx, first, second)

        if first > second:
            raise EntryUnknown("a proof runs from the shorter log to the longer")
        return await self._database.read("log.consistency", work)

    async def record(self, round_id: str, federation_id: str | None = None) -> LoggedRecord:
        """Return a round's record with its proof against the present head; raises RecordUnknown.

        `federation_id`: the only federation whose records the reader may see.
        """
        found = (await self.records([round_id], federation_id)).items
        if not found:
            raise RecordUnknown("the log holds no record of this round")
        return found[0]

    async def records(
        self, round_ids: Sequence[str], federation_id: str | None = None, since: int = 0
    ) -> LoggedRecords:
        """Return the records of these rounds, with their proofs against the current head.

        Where the log has grown from `since` entries, the proof that it only grew comes with them.
        """

        async def work(tx: Transaction) -> LoggedRecords:
            head = await self._head(tx)
            known = [found for one in round_ids if (found := await self._known(tx, one)) is not None]
            seen = [one for one in known if federation_id in (None, one[0].manifest.manifest.federation_id)]
            proofs = await _inclusions(tx, [index for _, index in seen], head.size)
            return LoggedRecords(
                items=tuple(
                    LoggedRecord(record=record, index=index, proof=proof, head=head)
                    for (record, index), proof in zip(seen, proofs, strict=True)
                ),
                consistency=await _consistency(tx, since, head.size) if 0 < since < head.size else None,
            )

        return await self._watch.read("log.records", work)

    async def _known(self, tx: Transaction, round_id: str) -> tuple[RoundRecord, int] | None:
        """Return a round's record, which never changes, and its place; every site of a round asks for the same one."""
        found = self._read.get(round_id) or await LogRepository(tx).record(round_id)
        if found is not None:
            self._read[round_id] = found
            self._read.move_to_end(round_id)
            if len(self._read) > _KEPT:
                self._read.popitem(last=False)
        return found

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


async def _inclusions(tx: Transaction, indices: Sequence[int], size: int) -> list[InclusionProof]:
    """Return the audit paths of these leaves, all from one query."""
    paths: list[list[tuple[int, int]]] = []
    for index in indices:
        ranges = tree.RangeRecorder()
        merkle.inclusion_proof(index, size, ranges)
        paths.append(list(reversed(ranges.asked)))
    hashes = iter(await _hashes(tx, [one for path in paths for one in path]))
    return [
        InclusionProof(index=index, size=size, path=tuple(next(hashes) for _ in path))
        for index, path in zip(indices, paths, strict=True)
    ]


async def _consistency(tx: Transaction, first: int, second: int) -> ConsistencyProof:
    ranges = tree.RangeRecorder()
    merkle.consistency_proof(first, second, ranges)
    return ConsistencyProof(first=first, second=second, path=await _hashes(tx, ranges.asked))


async def _hashes(tx: Transaction, wanted: Sequence[tuple[int, int]]) -> tuple[Digest, ...]:
    """Return the hashes over these ranges of leaves, in their order."""
    known = await LogRepository(tx).nodes(tree.nodes_of(wanted))
    return tuple(Digest(tree.hash_of(start, end, known).hex()) for start, end in wanted)
