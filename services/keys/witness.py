"""The witness: commits to a nonce, and signs one roster and one survivor set an attempt, never two.

Write-ahead: an answer is committed, with the question it belongs to, before it leaves. The same question gets the same
answer every time; another one is refused.
"""

import asyncio
import secrets
from dataclasses import dataclass, replace
from typing import Any, Final

import msgpack
from pydantic import ValidationError

from undersong.services.keys.domain import (
    AlreadyWitnessed,
    ManifestUntrusted,
    NonceUnknown,
    RoundVoided,
    parse_public_key,
)
from undersong.services.keys.repository.certificates import CertificateRepository
from undersong.services.keys.repository.witness import NONCE_PLACE, WitnessRepository
from undersong.services.keys.restores import PendingMark, RestoreWatch
from undersong.services.keys.tables import WitnessedRoundRow
from undersong.shared.database import Transaction
from undersong.shared.errors import Refusal
from undersong.shared.identity.authority import Identity, SignatureMismatch, Subject, public_bytes, verify_signature
from undersong.shared.identity.sealing import Sealer
from undersong.shared.identity.verify import Party
from undersong.shared.ids import Digest, RoundId, digest_of
from undersong.shared.secagg.engines import ENGINES
from undersong.shared.secagg.facts import WITNESS
from undersong.shared.secagg.oneshot.messages import SetAsk, Witnessed
from undersong.shared.secagg.oneshot.sets import statement_to_sign
from undersong.shared.secagg.pairwise import messages
from undersong.shared.secagg.pairwise.messages import MalformedStep
from undersong.shared.secagg.pairwise.roster import Frame, Roster
from undersong.shared.secagg.pairwise.terms import terms
from undersong.shared.secagg.pairwise.witness import (
    RosterAsk,
    SurvivorsAsk,
    WitnessRefused,
    read_ask,
    roster_statement,
    survivors_statement,
)
from undersong.shared.secagg.transcript import nonce_commitment
from undersong.shared.wire.manifest import MANIFEST_CONTEXT, RoundManifest, SignedManifest

_COORDINATOR: Final = Subject("service", "coordinator")
_NONCE_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Commitment:
    """What belongs into the manifest."""

    commitment: Digest
    epoch: int


@dataclass(frozen=True, slots=True)
class WitnessQuestion:
    """The signed manifest and what is asked about its round; `digest` names the whole question."""

    signed: SignedManifest
    ask: RosterAsk | SurvivorsAsk | SetAsk
    digest: Digest

    @classmethod
    def read(cls, body: bytes) -> "WitnessQuestion":
        """Read the aggregator's body strictly; raises MalformedStep."""
        try:
            found: Any = msgpack.unpackb(body, raw=False)
        except (ValueError, msgpack.UnpackException, RecursionError) as error:
            raise MalformedStep("the body is not msgpack") from error
        match found:
            case {"manifest": bytes() as manifest, "ask": bytes() as ask} if len(found) == len(("manifest", "ask")):
                signed = _signed(manifest)
                # Where sites send one message there is no roster: the witness is asked for one set, once.
                engine = signed.manifest.engine
                one_message = _witnessed(engine) and len(ENGINES[engine].steps) == 1
                return cls(signed, SetAsk.unpack(ask) if one_message else read_ask(ask), digest_of(ask))
        raise MalformedStep("the body is a map of manifest and ask, both bytes")


class Witness:
    """The use cases, one transaction each."""

    def __init__(self, watch: RestoreWatch, sealer: Sealer, identity: Identity) -> None:
        self._watch, self._sealer, self.identity = watch, sealer, identity

    async def epoch(self) -> int:
        """Return the present epoch; rounds of earlier ones are void."""

        async def work(tx: Transaction) -> int:
            return (await WitnessRepository(tx).state())[0]

        return await self._watch.read("witness.epoch", work)

    async def commit(self, round_id: RoundId, party: Party) -> Commitment:
        """Choose the round's nonce and commit to it; asking again gives the same.

        Raises RoundVoided for a round that was begun in an earlier epoch.
        """

        async def work(tx: Transaction, pending: PendingMark) -> Commitment:
            await CertificateRepository(tx).check_in_force(party.keyid)
            repository = WitnessRepository(tx)
            # The nonce, on which the graph depends, is fixed before there is a roster: neither can be fitted.
            row = await repository.find(round_id)
            if row is not None:
                self._check_open(row, pending)
                return Commitment(Digest(row.commitment), row.epoch)
            nonce = secrets.token_bytes(_NONCE_BYTES)
            commitment = Digest(nonce_commitment(nonce).hex())
            table, column = NONCE_PLACE
            sealed = self._sealer.seal(nonce, table, round_id, column)
            await repository.add(round_id, pending.epoch, self.identity.keyid, sealed, commitment, await tx.now())
            pending.advance()
            return Commitment(commitment, pending.epoch)

        return await self._watch.run("witness.commit", work)

    async def answer(self, round_id: RoundId, question: WitnessQuestion, party: Party) -> bytes:
        """Sign the roster or the survivors, once.

        Raises NonceUnknown, RoundVoided, AlreadyWitnessed, ManifestUntrusted or WitnessRefused.
        """

        async def work(tx: Transaction, pending: PendingMark) -> bytes:
            await CertificateRepository(tx).check_in_force(party.keyid)
            row = await WitnessRepository(tx).round(round_id)
            self._check_open(row, pending)
            await self._check_manifest(tx, round_id, question.signed, row)
            if isinstance(question.ask, SetAsk):
                return await self._set(tx, row, question, question.ask, pending)
            if isinstance(question.ask, RosterAsk):
                return await self._roster(tx, row, question, question.ask, pending)
            return await self._survivors(row, question, question.ask, pending)

        return await self._watch.run("witness.answer", work)

    async def _roster(
        self, tx: Transaction, row: WitnessedRoundRow, question: WitnessQuestion, ask: RosterAsk, pending: PendingMark
    ) -> bytes:
        # One roster and one survivor set for a round, and one round for an attempt: two would open two sums that differ
        # by one site's update.
        if row.roster_reply is not None:
            return _again(row.roster_ask, question, row.roster_reply)
        manifest = question.signed.manifest
        await self._take_attempt(tx, row, manifest)
        identities = {member.site_id: member.identity for member in ask.roster.members}
        certified = await CertificateRepository(tx).certified_keys(manifest.federation_id, identities, await tx.now())
        nonce = self._nonce(row)
        frozen = await asyncio.to_thread(self._freeze, question.signed, ask, nonce, certified)
        row.roster, row.roster_ask = frozen.pack(), question.digest
        row.roster_reply = messages.pack_list([nonce, frozen.signature])
        # The reply carries the nonce. The mark outside the database rises with each signature: a restore is noticed.
        row.nonce = None
        pending.advance()
        return row.roster_reply

    async def _set(
        self, tx: Transaction, row: WitnessedRoundRow, question: WitnessQuestion, ask: SetAsk, pending: PendingMark
    ) -> bytes:
        """Sign the one set of an attempt of one message a site, and open the nonce: its bodies are stored."""
        if row.survivors_reply is not None:
            return _again(row.survivors_ask, question, row.survivors_reply)
        manifest, nonce = question.signed.manifest, self._nonce(row)
        await self._take_attempt(tx, row, manifest)
        signature = self.identity.private_key.sign(statement_to_sign(manifest, ask, nonce))
        row.survivors_ask = question.digest
        row.survivors_reply = Witnessed(nonce, bytes.fromhex(self.identity.keyid), signature).pack()
        row.nonce = None
        pending.advance()
        return row.survivors_reply

    async def _take_attempt(self, tx: Transaction, row: WitnessedRoundRow, manifest: RoundManifest) -> None:
        """Let this be the one round of an attempt; raises AlreadyWitnessed where another is."""
        other = await WitnessRepository(tx).other_round(manifest.job_id, manifest.number, manifest.attempt)
        if other is not None:
            raise AlreadyWitnessed(f"a roster or set of this attempt was signed as {other}")
        row.job_id, row.number, row.attempt = manifest.job_id, manifest.number, manifest.attempt
        row.manifest_digest = manifest.digest()

    async def _survivors(
        self, row: WitnessedRoundRow, question: WitnessQuestion, ask: SurvivorsAsk, pending: PendingMark
    ) -> bytes:
        if row.survivors_reply is not None:
            return _again(row.survivors_ask, question, row.survivors_reply)
        if row.roster is None:
            raise WitnessRefused("this witness has not signed the round's roster")
        fixed = terms(question.signed.manifest, self._public_key)
        statement = await asyncio.to_thread(survivors_statement, ask, fixed, Roster.unpack(row.roster))
        row.survivors_ask = question.digest
        row.survivors_reply = self.identity.private_key.sign(statement)
        pending.advance()
        return row.survivors_reply

    def _freeze(self, signed: SignedManifest, ask: RosterAsk, nonce: bytes, certified: dict[str, bytes]) -> Roster:
        """Check and sign; pure, and long for a large roster, so it runs in a thread."""
        manifest = signed.manifest
        fixed = terms(manifest, self._public_key)
        frozen, statement = roster_statement(ask, fixed, nonce, frozenset(manifest.cohort), certified)
        try:
            Frame.of(frozen, fixed)
        except ValueError as error:
            raise WitnessRefused(str(error)) from error
        return replace(frozen, signature=self.identity.private_key.sign(statement))

    def _check_open(self, row: WitnessedRoundRow, pending: PendingMark) -> None:
        # After a restore it is not known what was signed in between, so nothing of an earlier epoch is signed again.
        if row.epoch != pending.epoch:
            raise RoundVoided("the round was begun before this witness's database was restored; begin a new attempt")
        if row.keyid != self.identity.keyid:
            raise RoundVoided("the round was begun before this witness changed its key; begin a new attempt")

    async def _check_manifest(
        self, tx: Transaction, round_id: RoundId, signed: SignedManifest, row: WitnessedRoundRow
    ) -> None:
        manifest = signed.manifest
        await _check_signed(tx, signed)
        if manifest.round_id != round_id or not _witnessed(manifest.engine):
            raise WitnessRefused("the manifest is of another round or engine")
        if manifest.epoch < row.epoch:  # the coordinator's may be ahead, never behind
            raise WitnessRefused(f"the manifest names epoch {manifest.epoch}, the round began in {row.epoch}")
        if row.manifest_digest not in (None, manifest.digest()):
            raise AlreadyWitnessed("this witness signed a roster for another manifest of this round")

    def _nonce(self, row: WitnessedRoundRow) -> bytes:
        if row.nonce is None:
            raise NonceUnknown("the round's nonce is gone")
        table, column = NONCE_PLACE
        return self._sealer.open(row.nonce, table, row.round_id, column)

    @property
    def _public_key(self) -> bytes:
        return public_bytes(self.identity.private_key.public_key())


async def coordinator_key(tx: Transaction, signed: SignedManifest) -> bytes:
    """Return the key of the coordinator that signed, whose certificate is valid now; raises ManifestUntrusted."""
    try:
        issued = await CertificateRepository(tx).check_in_force(signed.keyid)
    except Refusal as error:
        raise ManifestUntrusted("the manifest's signer has no valid certificate") from error
    if issued.subject != _COORDINATOR or not issued.not_before <= await tx.now() < issued.not_after:
        raise ManifestUntrusted("the manifest is not signed by a coordinator whose certificate is valid")
    return issued.public_key


async def _check_signed(tx: Transaction, signed: SignedManifest) -> None:
    key = parse_public_key(await coordinator_key(tx, signed))
    digest = bytes.fromhex(signed.manifest.digest())
    try:
        verify_signature(key, MANIFEST_CONTEXT, digest, bytes.fromhex(signed.signature))
    except SignatureMismatch as error:
        raise ManifestUntrusted("the manifest's signature does not fit it") from error


def _witnessed(engine: str) -> bool:
    """Return whether rounds of this engine have a witness; False for an engine that is unknown here."""
    facts = ENGINES.get(engine)
    return facts is not None and facts.asks(WITNESS)


def _again(asked: str | None, question: WitnessQuestion, reply: bytes) -> bytes:
    """Return the answer to a question that was answered; raises AlreadyWitnessed where it was another question."""
    if asked != question.digest:
        raise AlreadyWitnessed("this witness signed something else for this attempt at the round")
    return reply


def _signed(data: bytes) -> SignedManifest:
    try:
        return SignedManifest.model_validate_json(data)
    except ValidationError as error:
        raise MalformedStep("the manifest is not a signed manifest") from error
