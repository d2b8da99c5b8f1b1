"""What the helper does in a round: begin, judge reports, agree on one set, give its share of one sum.

Write-ahead: an answer is committed with its question before it leaves. The same question gets the same answer, after
a crash too; another one is refused. What is computed in between is a function of what is stored. A database that is
older than what was answered is noticed (`undersong.services.keys.restores`), and no round goes on that was begun
before.
"""

import asyncio
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import ValidationError

from undersong.services.keys.helper.domain import (
    EngineWithoutHelper,
    HelperRound,
    RoundAnswered,
    RoundDiffers,
    SetAgreed,
    SetDiffers,
    SetMissing,
    SetUnfit,
)
from undersong.services.keys.helper.peers.parties import Parties
from undersong.services.keys.helper.repository.rounds import (
    HelperRepository,
    Kept,
    NewHelperRound,
    NewVerdict,
    openings_of,
)
from undersong.services.keys.openings import Openings
from undersong.services.keys.restores import PendingMark, RestoreWatch
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Invalid, Refusal
from undersong.shared.faults import point
from undersong.shared.identity.authority import Identity
from undersong.shared.identity.sealing import Sealer
from undersong.shared.ids import Digest, RoundId, SiteId, digest_of
from undersong.shared.secagg import transcript
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.secagg.twoserver.engine import accepted_set
from undersong.shared.secagg.twoserver.helper import (
    HelperKeys,
    aggregate,
    judge,
    pack_share,
    refused,
    seal_share,
    seal_verify_key,
)
from undersong.shared.secagg.twoserver.messages import (
    Accepted,
    Agree,
    Begin,
    Begun,
    MessageMalformed,
    ReportQuestion,
    ReportVerdict,
)
from undersong.shared.secagg.twoserver.report import ReportRepeated
from undersong.shared.telemetry.metrics import SECAGG_FAILURES
from undersong.shared.wire.helper import accepted_statement, key_statement
from undersong.shared.wire.manifest import RoundManifest, SignedManifest

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_KEYS: Final = ("rounds", "keys")


class LengthDiffers(Invalid):
    """The report's vector has another length than the round's manifest asks for."""


class HelperRounds:
    """The use cases. `identity` gives the present identity, which signs."""

    def __init__(
        self,
        database: Database,
        watch: RestoreWatch,
        openings: Openings,
        sealer: Sealer,
        identity: Callable[[], Identity],
        parties: Parties,
        *,
        keep: timedelta,
    ) -> None:
        self._database, self._watch, self._openings = database, watch, openings
        self._sealer, self._identity = sealer, identity
        self._parties, self._keep = parties, keep
        self._shares: dict[RoundId, bytes] = {}  # packed; only to spare a second computation

    async def begin(self, round_id: RoundId, begin: Begin) -> Begun:
        """Take part in a round: fresh keys, the same ones when asked again.

        Raises ManifestUntrusted, RoundDiffers, EngineWithoutHelper or RoundVoided.
        """
        signed = _signed(begin.manifest)
        manifest, digest = signed.manifest, signed.manifest.digest()
        if manifest.round_id != round_id:
            raise RoundDiffers(f"the manifest is of round {manifest.round_id}")
        if not engine_facts(manifest.engine).second_server:
            raise EngineWithoutHelper(f"engine {manifest.engine} has no helper")
        await self._parties.check_coordinator(signed)
        fresh = HelperKeys.make(manifest, os.urandom, self._sealer.derive)
        sealed = self._sealer.seal(fresh.pack(), _KEYS[0], round_id, _KEYS[1])

        async def work(tx: Transaction, pending: PendingMark) -> tuple[HelperRound, HelperKeys]:
            rows, now = HelperRepository(tx), await tx.now()
            expires_at = now + timedelta(seconds=manifest.deadline_s) + self._keep
            if await rows.add(NewHelperRound(signed, digest, sealed, now, expires_at)):
                pending.advance()
            found = await rows.lock(round_id)
            if found.manifest_digest != digest:
                raise RoundDiffers(f"the helper takes part under manifest {found.manifest_digest[:16]}…")
            return found, self._keys(found, found.check_open(now))

        _, keys = await self._watch.run("helper.begin", work)
        point("helper.round.begun")
        public = X25519PrivateKey.from_private_bytes(keys.private_key).public_key().public_bytes_raw()
        identity = self._identity()
        return Begun(
            helper_key=public,
            keyid=bytes.fromhex(identity.keyid),
            signature=identity.private_key.sign(key_statement(digest, public)),
            verify_key=seal_verify_key(manifest, begin.leader_key, keys),
        )

    async def verify(self, round_id: RoundId, questions: list[ReportQuestion]) -> list[ReportVerdict]:
        """Return a verdict on each report, in order. Raises RoundUnknown, RoundVoided or SetAgreed."""

        async def look(tx: Transaction) -> tuple[HelperRound, bytes, dict[SiteId, Any]]:
            rows = HelperRepository(tx)
            found = await rows.get(round_id)
            return found, found.check_open(await tx.now()), await rows.judged(round_id)

        found, sealed, known = await self._watch.read("helper.look", look)
        keys = self._keys(found, sealed)
        verdicts = []
        for question in questions:
            earlier = known.get(question.report.site_id)
            if earlier is not None:
                verdicts.append(_again(earlier.question, earlier.verdict, question))
                continue
            verdict = await self._judge(found, keys, question)
            verdicts.append(await self._write_down(round_id, question, verdict))
        return verdicts

    async def _judge(self, found: HelperRound, keys: HelperKeys, question: ReportQuestion) -> ReportVerdict:
        manifest = found.signed.manifest
        try:
            if found.length is not None and question.report.length != found.length:
                raise LengthDiffers(f"{question.report.length} words, this round's have {found.length}")
            await self._parties.check_report(manifest, question.report)
        except Refusal as refusal:
            if refusal.retry_after_s is not None:  # the directory is away: nothing is decided
                raise
            return refused(refusal)
        return await asyncio.to_thread(judge, manifest, keys, question)

    async def _write_down(self, round_id: RoundId, question: ReportQuestion, verdict: ReportVerdict) -> ReportVerdict:
        """Commit the verdict; the earlier one where there is one by now."""
        report = question.report

        async def work(tx: Transaction, pending: PendingMark) -> ReportVerdict:
            rows, now = HelperRepository(tx), await tx.now()
            found = await rows.lock(round_id)
            found.check_open(now)
            known = (await rows.judged(round_id)).get(report.site_id)
            if known is not None:
                return _again(known.question, known.verdict, question)
            if found.accepted is not None:
                raise SetAgreed("whose reports are in the sum was agreed; this one comes too late")
            if not await rows.judge(NewVerdict(round_id, found.signed.manifest.job_id, question, verdict, now)):
                return refused(ReportRepeated("a report of this id was verified in this job before"))
            pending.advance()
            return verdict

        said = await self._watch.run("helper.verdict", work)
        point("helper.report.judged")
        if said.message is None:
            SECAGG_FAILURES.labels("verify").inc()
            log.warning("report.refused", round_id=round_id, site_id=report.site_id, code=said.code, detail=said.detail)
        else:
            log.info("report.accepted", round_id=round_id, site_id=report.site_id)
        return said

    async def agree(self, round_id: RoundId, agree: Agree) -> Accepted:
        """Sign whose reports are in the sum, once. Raises SetUnfit, SetDiffers, RoundAnswered or RoundVoided."""

        async def look(tx: Transaction) -> tuple[HelperRound, bytes, dict[SiteId, Kept]]:
            rows = HelperRepository(tx)
            found = await rows.get(round_id)
            return found, found.check_open(await tx.now()), await rows.kept(round_id)

        found, sealed, kept = await self._watch.read("helper.set", look)
        if found.accepted is None:
            members = _members(found.signed.manifest, agree, kept)
            packed = await self._aggregate(found, sealed, members)
            answer = self._sign(found, agree, digest_of(packed))

            async def work(tx: Transaction, pending: PendingMark) -> HelperRound:
                return await self._agree(tx, pending, round_id, agree, answer)

            found = await self._watch.run("helper.agree", work)
            point("helper.set.agreed")
            log.info("set.agreed", round_id=round_id, sites=len(members))
        if (found.members, found.root) != (agree.members, agree.root):
            raise SetDiffers("the helper has signed another set for this round")
        await self._openings.add(*openings_of(found.signed.manifest, round_id))
        return Accepted.unpack(found.accepted or b"")

    async def _agree(
        self, tx: Transaction, pending: PendingMark, round_id: RoundId, agree: Agree, answer: Accepted
    ) -> HelperRound:
        rows, now = HelperRepository(tx), await tx.now()
        found = await rows.lock(round_id)
        found.check_open(now)
        if found.accepted is not None:
            return found
        if not await rows.agree(found, agree, answer, now):
            raise RoundAnswered("this round of the job, or its row of noise, was opened in another attempt")
        pending.advance()
        return await rows.lock(round_id)

    def _sign(self, found: HelperRound, agree: Agree, share_digest: Digest) -> Accepted:
        identity, digest = self._identity(), bytes.fromhex(share_digest)
        statement = accepted_statement(found.manifest_digest, agree.members, agree.root, digest)
        return Accepted(digest, bytes.fromhex(identity.keyid), identity.private_key.sign(statement))

    async def share(self, round_id: RoundId, leader_key: bytes) -> bytes:
        """Return the share of the sum over the agreed set, sealed to the leader. Raises SetMissing or RoundVoided.

        Which attempt is opened is durable outside the database before the share leaves.
        """

        async def look(tx: Transaction) -> tuple[HelperRound, bytes, dict[SiteId, Kept]]:
            rows = HelperRepository(tx)
            found = await rows.get(round_id)
            return found, found.check_open(await tx.now()), await rows.kept(round_id)

        found, sealed, kept = await self._watch.read("helper.share", look)
        if found.members is None or found.share_digest is None:
            raise SetMissing("the helper has not agreed on whose reports are in the sum")
        packed = self._shares.pop(round_id, None)
        if packed is None or digest_of(packed) != Digest(found.share_digest.hex()):
            packed = await self._aggregate(found, sealed, _named(found.signed.manifest, found.members, kept))
            self._shares.pop(round_id, None)
        if digest_of(packed) != found.share_digest.hex():
            raise RuntimeError(f"the share of round {round_id} does not come out as it was signed")
        await self._openings.add(*openings_of(found.signed.manifest, round_id))  # `agree` may have died before it did
        point("helper.share.made")
        return await asyncio.to_thread(seal_share, found.signed.manifest, leader_key, packed)

    async def _aggregate(self, found: HelperRound, sealed: bytes, members: list[Kept]) -> bytes:
        keys, manifest = self._keys(found, sealed), found.signed.manifest
        taken = [kept.taken for kept in members]
        packed = await asyncio.to_thread(lambda: pack_share(aggregate(manifest, keys, taken)))
        self._shares.clear()  # one round's is enough: memory for one vector
        self._shares[found.id] = packed
        return packed

    async def sweep(self) -> int:
        """Erase what rounds that are over do not need."""

        async def work(tx: Transaction) -> int:
            rows = HelperRepository(tx)
            expired = await rows.expired(await tx.now())
            for round_id in expired:
                await rows.erase(round_id)
            return len(expired)

        erased = await self._database.run("helper.erase", work)
        if erased:
            log.info("rounds.erased", rounds=erased)
        return 0  # the ordinary way, so no repair

    def _keys(self, found: HelperRound, sealed: bytes) -> HelperKeys:
        return HelperKeys.unpack(self._sealer.open(sealed, _KEYS[0], found.id, _KEYS[1]))


def _again(asked: Digest, verdict: ReportVerdict, question: ReportQuestion) -> ReportVerdict:
    """Return the verdict on the same question; a refusal of any other about the same site."""
    if asked != digest_of(question.pack()):
        return refused(ReportRepeated("another report of this site was verified in this round"))
    return verdict


def _members(manifest: RoundManifest, agree: Agree, kept: dict[SiteId, Kept]) -> list[Kept]:
    """Return the accepted reports that the leader names; raises SetUnfit."""
    found = _named(manifest, agree.members, kept)
    if len(found) < manifest.min_cohort:
        raise SetUnfit(f"{len(found)} accepted reports are fewer than the minimum cohort of {manifest.min_cohort}")
    lengths = {each.taken.length for each in found}
    if len(lengths) > 1:
        raise SetUnfit(f"the reports have different lengths: {', '.join(map(str, sorted(lengths)))} words")
    bodies = {each.taken.site_id: bytes.fromhex(each.body_digest) for each in found}
    if accepted_set(manifest, bodies) != agree:
        raise SetUnfit("the set's root is not that of the bodies which were verified")
    return found


def _named(manifest: RoundManifest, members: bytes, kept: dict[SiteId, Kept]) -> list[Kept]:
    try:
        sites = [manifest.cohort[place] for place in sorted(transcript.members(members, len(manifest.cohort)))]
    except ValueError as error:
        raise SetUnfit(str(error)) from error
    missing = [site for site in sites if site not in kept]
    if missing:
        raise SetUnfit(f"no report of {', '.join(missing)} was accepted here")
    return [kept[site] for site in sites]


def _signed(data: bytes) -> SignedManifest:
    try:
        return SignedManifest.model_validate_json(data)
    except ValidationError as error:
        raise MessageMalformed("the manifest is not a signed manifest") from error
