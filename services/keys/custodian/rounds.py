"""What a custodian does in a round: begin, answer about one witnessed set, give its sum of shares over that.

Write-ahead: an answer is committed with its question before it leaves. The same question gets the same answer, after
a crash too; another one is refused. A database that is older than what was answered is noticed
(`undersong.services.keys.restores`), and no round goes on that was begun before.
"""

import asyncio
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import ValidationError

from undersong.services.keys.custodian.domain import (
    CustodianRound,
    EngineWithoutCustodians,
    NothingSummed,
    OtherManifest,
    OtherSet,
    SumGiven,
)
from undersong.services.keys.custodian.repository.rounds import CustodianRepository, NewCustodianRound
from undersong.services.keys.openings import Openings, RecordedOpening
from undersong.services.keys.restores import PendingMark, RestoreWatch
from undersong.services.keys.signatories import Signatories, SignatureUntrusted
from undersong.shared.database import Database, Transaction
from undersong.shared.faults import point
from undersong.shared.identity.authority import Identity
from undersong.shared.identity.sealing import Sealer
from undersong.shared.ids import RoundId, SiteId
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.secagg.hpke import SUITE
from undersong.shared.secagg.oneshot.custodian import Summed, check_and_sum, sum_digest, witnessed_statement
from undersong.shared.secagg.oneshot.dealing import dealing_statement
from undersong.shared.secagg.oneshot.messages import BeginAsk, BegunReply, CheckAsk, SetAsk, SumAsk, SumShare
from undersong.shared.secagg.oneshot.terms import terms
from undersong.shared.secagg.strict import MessageMalformed
from undersong.shared.wire.custodian import CUSTODIAN, key_statement, sum_statement
from undersong.shared.wire.manifest import RoundManifest, SignedManifest

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_WITNESS: Final = "keys"


class CustodianRounds:
    """The use cases. `identity` gives the present identity, which signs; `index` is this custodian's place."""

    def __init__(
        self,
        database: Database,
        watch: RestoreWatch,
        openings: Openings,
        sealer: Sealer,
        identity: Callable[[], Identity],
        signatories: Signatories,
        *,
        index: int,
        keep: timedelta,
    ) -> None:
        self._database, self._watch, self._openings = database, watch, openings
        self._sealer, self._identity, self._signatories = sealer, identity, signatories
        self._index, self._keep = index, keep

    async def start(self) -> None:
        """Compare the database with the high-water file, and write the file where there is none; raises Unavailable."""
        await self._watch.start()

    async def begin(self, round_id: RoundId, begin: BeginAsk) -> BegunReply:
        """Take part in a round: a fresh key, the same one when asked again.

        Raises ManifestUntrusted, OtherManifest, EngineWithoutCustodians or RoundVoided.
        """
        signed = _signed(begin.manifest)
        manifest, digest = signed.manifest, signed.manifest.digest()
        if manifest.round_id != round_id:
            raise OtherManifest(f"the manifest is of round {manifest.round_id}")
        if not engine_facts(manifest.engine).asks(CUSTODIAN) or self._index >= terms(manifest).custodians:
            raise EngineWithoutCustodians(f"engine {manifest.engine} asks no custodian {self._index + 1} in this round")
        await self._signatories.check_coordinator(signed)
        sealed = self._sealer.seal(os.urandom(32), "rounds", round_id, "key")

        async def work(tx: Transaction, pending: PendingMark) -> tuple[CustodianRound, bytes]:
            rows, now = CustodianRepository(tx), await tx.now()
            expires_at = now + timedelta(seconds=manifest.deadline_s) + self._keep
            if await rows.add(NewCustodianRound(signed, digest, sealed, now, expires_at)):
                pending.advance()
            found = await rows.get(round_id, lock=True)
            if found.manifest_digest != digest:
                raise OtherManifest(f"the custodian takes part under manifest {found.manifest_digest[:16]}…")
            return found, found.check_open(now)

        _, key = await self._watch.run("custodian.begin", work)
        point("custodian.round.begun")
        private = X25519PrivateKey.from_private_bytes(self._sealer.open(key, "rounds", round_id, "key"))
        public, identity = private.public_key().public_bytes_raw(), self._identity()
        signature = identity.private_key.sign(key_statement(digest, self._index, public))
        return BegunReply(public, bytes.fromhex(identity.keyid), signature)

    async def check(self, round_id: RoundId, ask: CheckAsk) -> bytes:
        """Answer about every site's share in a witnessed set, once (`Checked`).

        Raises CustodianRefused, SignatureUntrusted, OtherSet or RoundVoided.
        """
        found, key = await self._look(round_id)
        if found.asked is None:
            manifest = found.signed.manifest
            statement = witnessed_statement(manifest, ask)
            said = ask.witnessed
            await self._signatories.check_service(_WITNESS, said.keyid.hex(), said.signature, statement)
            untrusted = await self._untrusted(manifest, ask)
            private = self._sealer.open(key, "rounds", round_id, "key")
            summed = await asyncio.to_thread(check_and_sum, manifest, self._index, private, ask, untrusted)
            found = await self._write_down(round_id, ask.asked, summed)
            point("custodian.set.checked")
            log.info("set.checked", round_id=round_id, sites=len(ask.dealt), unusable=len(summed.checked.unusable))
        if found.asked != ask.asked.pack() or found.checked is None:
            raise OtherSet("the custodian has answered about another set of this round")
        return found.checked

    async def _untrusted(self, manifest: RoundManifest, ask: CheckAsk) -> dict[SiteId, str]:
        """Return the sites whose signature over their shares does not hold, with the reason."""
        fixed, untrusted = terms(manifest), dict[SiteId, str]()
        for site, dealt in ask.dealt.items():
            statement = dealing_statement(fixed, site, dealt.digests)
            try:
                await self._signatories.check_site(manifest, site, dealt.keyid.hex(), dealt.signature, statement)
            except SignatureUntrusted as refusal:
                untrusted[site] = refusal.detail
        return untrusted

    async def _write_down(self, round_id: RoundId, asked: SetAsk, summed: Summed) -> CustodianRound:
        """Commit the answer; the earlier one where there is one by now."""
        total = None if summed.total is None else self._sealer.seal(summed.total, "rounds", round_id, "total")

        async def work(tx: Transaction, pending: PendingMark) -> CustodianRound:
            rows = CustodianRepository(tx)
            found = await rows.get(round_id, lock=True)
            found.check_open(await tx.now())
            if found.asked is None:
                await rows.put_answer(round_id, asked.pack(), summed.checked.pack(), total)
                pending.advance()
            return await rows.get(round_id)

        return await self._watch.run("custodian.check", work)

    async def give(self, round_id: RoundId, ask: SumAsk) -> SumShare:
        """Return the sum of shares over the set, sealed to the aggregator's key, for one attempt at a round of a job.

        Which attempt is opened is durable outside the database before the sum leaves. Raises NothingSummed, SumGiven
        or RoundVoided.
        """
        found, _ = await self._look(round_id)
        if found.asked != ask.asked.pack() or found.total is None:
            raise NothingSummed("the custodian was not asked about this set, or cannot use a share in it")
        manifest = found.signed.manifest
        opening = RecordedOpening(manifest.job_id, str(manifest.kind), manifest.number, round_id)

        async def work(tx: Transaction, pending: PendingMark) -> None:
            rows = CustodianRepository(tx)
            (await rows.get(round_id, lock=True)).check_open(await tx.now())
            if await rows.opened(opening) != round_id:
                raise SumGiven("this round of the job was opened in another attempt")
            pending.advance()

        await self._watch.run("custodian.give", work)
        await self._openings.add(opening)
        point("custodian.sum.given")
        total, identity = self._sealer.open(found.total, "rounds", round_id, "total"), self._identity()
        info = terms(manifest).sum_info(self._index)
        sealed = SUITE.encrypt(total, X25519PublicKey.from_public_bytes(ask.sum_key), info)
        statement = sum_statement(found.manifest_digest, self._index, ask.members, ask.root, sum_digest(total))
        log.info("sum.given", round_id=round_id)
        return SumShare(sealed, bytes.fromhex(identity.keyid), identity.private_key.sign(statement))

    async def _look(self, round_id: RoundId) -> tuple[CustodianRound, bytes]:
        async def look(tx: Transaction) -> tuple[CustodianRound, bytes]:
            found = await CustodianRepository(tx).get(round_id)
            return found, found.check_open(await tx.now())

        return await self._watch.read("custodian.look", look)

    async def sweep(self) -> int:
        """Erase what rounds that are over do not need."""

        async def work(tx: Transaction) -> int:
            rows = CustodianRepository(tx)
            expired = await rows.expired(await tx.now())
            for round_id in expired:
                await rows.erase(round_id)
            return len(expired)

        erased = await self._database.run("custodian.erase", work)
        if erased:
            log.info("rounds.erased", rounds=erased)
        return 0  # the ordinary way, so no repair


def _signed(data: bytes) -> SignedManifest:
    try:
        return SignedManifest.model_validate_json(data)
    except ValidationError as error:
        raise MessageMalformed("the manifest is not a signed manifest") from error
