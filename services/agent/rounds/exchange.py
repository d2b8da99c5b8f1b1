"""One site's part in an engine's steps: what is said before the upload, beside the training, and after it.

Nothing here knows a particular engine. Every message is stored with the engine's state before it leaves
(`engine_state`), and after a crash the stored bytes are sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import msgpack
import structlog

from undersong.services.agent.domain.rules import Policy, TaskFailure
from undersong.services.agent.peers.aggregator import WAIT_S, Aggregator
from undersong.services.agent.peers.keys import BlockingSignatures, Signatures
from undersong.services.agent.peers.link import RequestRefused
from undersong.services.agent.repository.engine_state import DONE, EngineRow, EngineState
from undersong.services.agent.repository.highwater import UPLOAD, Place, Sent, SentMessages
from undersong.shared.errors import Refusal
from undersong.shared.faults import point
from undersong.shared.identity.authority import Identity, public_bytes
from undersong.shared.ids import Digest, RoundId, SiteId, digest_of
from undersong.shared.wire.manifest import RoundManifest

if TYPE_CHECKING:  # engines bring numpy and compiled kernels with them: only once there is a round
    from pydantic import JsonValue

    from undersong.shared.secagg.engine import ClientRound, Engine, Payload, Pieces

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

STEP_CLOSED: Final = "step-closed"
GRACE_S: Final = 600.0  # beyond the round's deadline the aggregator waits for no answer
POLL_PAUSE_S: Final = 0.5  # where the aggregator says "not yet" without having waited

LEFT_BEHIND: Final = frozenset({STEP_CLOSED, "round-closed", "site-fell-out"})
GONE: Final = frozenset({404, 409, 410})


class Exchange:
    """The steps of one round. Made by `Exchanges`."""

    def __init__(
        self,
        engine: Engine,
        client_round: ClientRound,
        aggregator: Aggregator,
        stored: EngineState,
        sent: SentMessages,
        expires_at: float,
        fresh: bytes = b"",
    ) -> None:
        """`fresh`: the state at the beginning of an engine without further steps, which is stored nowhere."""
        self.engine, self.client_round, self._fresh = engine, client_round, fresh
        self._aggregator, self._stored, self._sent, self._expires_at = aggregator, stored, sent, expires_at
        place = engine.steps.index(UPLOAD)
        self.before, self.after = engine.steps[:place], engine.steps[place + 1 :]

    @property
    def has_steps(self) -> bool:
        """Whether anything but the upload is exchanged."""
        return bool(self.before or self.after)

    async def lead_up(self) -> bytes | None:
        """Return the steps before the upload; the answer to the last of them."""
        answer: bytes | None = None
        for place, step in enumerate(self.before):
            if any(self._said(other) for other in self.before[place + 1 :]):
                continue  # its answer was used already, and that to the last one is what is needed
            answer = await self._say(step, answer) or await self._answer(step)
        return answer

    def upload(self, answer: bytes | None, payload: Payload) -> tuple[bytes, Pieces]:
        """(state, body) of the upload; the caller stores both."""
        return self.engine.client.upload(self.client_round, self._state(), answer, payload)

    def sign_body(self, state: bytes, body_digest: Digest) -> bytes | None:
        """Sign a body's digest, where the engine wants that; the caller stores the signature with the body."""
        if self.engine.signing is None:
            return None
        return self.engine.signing.sign(self.client_round, state, bytes.fromhex(body_digest))

    async def follow_up(self, body_digest: Digest, phase: Callable[[str], None]) -> None:
        """Run the steps after the upload; on return the round is over for this site and its secrets are erased.

        An engine sends a message after the upload only once it was shown that the update is in the sum. Dropping out
        later does not change that: the contribution counts, and its receipt is waited for.
        """
        if not self.after:
            return
        self.client_round = replace(self.client_round, body=bytes.fromhex(body_digest))
        try:
            await self._follow(phase)
        except TaskFailure as failure:
            if failure.code not in LEFT_BEHIND or not any(self._said(step) for step in self.after):
                raise
            log.info("round.went_on", reason=str(failure))
        await asyncio.to_thread(self._stored.end, self.client_round.manifest.round_id, DONE)

    async def _follow(self, phase: Callable[[str], None]) -> None:
        answer: bytes | None = None
        previous = UPLOAD
        for place, step in enumerate(self.after):
            if not any(self._said(other) for other in self.after[place + 1 :]):
                phase(step)
                if answer is None and self._said(step) is None:
                    answer = await self._answer(previous)
                answer = await self._say(step, answer)
            previous = step

    async def _say(self, step: str, answer: bytes | None) -> bytes | None:
        """Speak once, durably, and send the bytes; the answer, where the step ended soon."""
        manifest = self.client_round.manifest
        again = self._said(step) is not None
        message = await asyncio.to_thread(self._recorded, step, answer)
        wait_s = 0 if self._opens(step) else WAIT_S  # the last step has no answer
        found = None
        try:
            found = await self._aggregator.say(manifest.round_id, step, message, wait_s=wait_s)
        except RequestRefused as problem:
            if not (again and problem.slug == STEP_CLOSED):
                raise refused(problem) from problem
            log.info("step.closed", step=step)  # with these bytes or without them: the answer will tell
        point("agent.message.said")
        log.info("step.said", step=step, size=len(message), again=again)
        return found

    def _recorded(self, step: str, answer: bytes | None) -> bytes:
        """Return the message of a step once it, and that it is about to be sent, are durable. In a thread."""
        manifest = self.client_round.manifest
        message = self._said(step)
        if message is None:
            message = self._speak(step, answer)
        # The mark outside the database is written before the bytes leave: a database that is set back later cannot make
        # this site say something else in the same place.
        self._sent.reach(Sent(Place.of(manifest), step, digest_of(message), opens=self._opens(step)))
        point("agent.message.noted")
        return message

    def _speak(self, step: str, answer: bytes | None) -> bytes:
        try:
            state, message = self.engine.client.message(self.client_round, self._state(), step, answer)
        except Refusal as refusal:
            raise TaskFailure(refusal.slug(), f"{step}: {refusal.detail}") from refusal
        except ValueError as error:  # a cohort without a safe topology, a share that is none
            raise TaskFailure("engine-error", f"{step}: {error}") from error
        self._stored.record_message(self.client_round.manifest, step, state, message, opens=self._opens(step))
        point("agent.message.kept")
        return message

    def _opens(self, step: str) -> bool:
        """Return whether this step opens the sum: the last one after the upload."""
        return bool(self.after) and step == self.after[-1]

    async def _answer(self, step: str) -> bytes:
        round_id = self.client_round.manifest.round_id
        while time.time() < self._expires_at:
            asked_at = time.monotonic()
            try:
                found = await self._aggregator.answer(round_id, step)
            except RequestRefused as problem:
                raise refused(problem) from problem
            if found is not None:
                return found
            await asyncio.sleep(max(0.0, POLL_PAUSE_S - (time.monotonic() - asked_at)))
        raise TaskFailure("round-over", f"step {step} did not end in its time")

    def _state(self) -> bytes:
        if not self.has_steps:
            return self._fresh
        return self._stored.secrets(self.client_round.manifest.round_id)[1]

    def _said(self, step: str) -> bytes | None:
        return self._stored.message(self.client_round.manifest.round_id, step)


class Exchanges:
    """Begins exchanges, and takes them up again."""

    def __init__(
        self,
        aggregator: Aggregator,
        stored: EngineState,
        sent: SentMessages,
        identity: Callable[[], Identity],
        signatures: Signatures,
        policy: Callable[[], Policy],
    ) -> None:
        self._aggregator, self._stored, self._sent = aggregator, stored, sent
        self._identity, self._signatures, self._policy = identity, signatures, policy
        self._signing: Identity | None = None  # the key of the round that runs, even if it is rotated meanwhile

    async def join(
        self, manifest: RoundManifest, digest: Digest, site_id: SiteId, public: Mapping[str, JsonValue]
    ) -> Exchange:
        """Return this site's place in the round: as it was left, or a new one."""
        engine = await asyncio.to_thread(load_engine, manifest.engine)
        if engine.steps == (UPLOAD,):
            return await self._upload_only(engine, Start(manifest, site_id, public, b"", b""))
        earlier = self._stored.find(manifest.round_id)
        if earlier is not None:
            if earlier.manifest_digest != digest:
                raise TaskFailure("round-answered", "this round was begun under another manifest")
            return self._again(engine, manifest.round_id, earlier)
        self._signing = identity = self._identity()
        own_key = public_bytes(identity.private_key.public_key())
        place = Start(manifest, site_id, public, await self._signatures.witness(), own_key)
        expires_at = time.time() + manifest.deadline_s + GRACE_S
        exchange = self._exchange(engine, place, expires_at)

        state = await self._begun(engine, exchange.client_round)
        await asyncio.to_thread(self._stored.begin, manifest, digest, place.pack(), state, expires_at=expires_at)
        return exchange

    async def _begun(self, engine: Engine, client_round: ClientRound) -> bytes:
        """Return the engine's state once it has checked the public material; TaskFailure where that cannot be used."""
        from undersong.shared.secagg.engine import PublicUnsigned

        verifier = BlockingSignatures(self._signatures, asyncio.get_running_loop())
        try:
            return await asyncio.to_thread(engine.client.begin, client_round, verifier)
        except PublicUnsigned as refusal:
            raise TaskFailure("engine-key", refusal.detail) from refusal
        except Refusal as refusal:
            raise TaskFailure(refusal.slug(), refusal.detail) from refusal

    async def resume(self, round_id: RoundId) -> Exchange | None:
        """Return a round that was begun and is not over here; None where no step is left."""
        earlier = self._stored.find(round_id)
        if earlier is None or earlier.ended == DONE:
            return None
        engine = await asyncio.to_thread(load_engine, earlier.engine)
        return self._again(engine, round_id, earlier)

    def _again(self, engine: Engine, round_id: RoundId, earlier: EngineRow) -> Exchange:
        if earlier.ended is not None:
            raise TaskFailure(earlier.ended, "this round ended at this site before")
        place = Start.unpack(self._stored.secrets(round_id)[0])
        return self._exchange(engine, place, earlier.expires_at)

    async def _upload_only(self, engine: Engine, place: Start) -> Exchange:
        """Return one message and no state; some engines have it signed."""
        from undersong.shared.secagg.engine import ClientRound

        identity = self._identity()
        client_round = ClientRound(
            place.manifest, place.site_id, place.public, sign=identity.private_key.sign, keyid=identity.keyid
        )
        fresh = await self._begun(engine, client_round)
        return Exchange(engine, client_round, self._aggregator, self._stored, self._sent, float("inf"), fresh)

    def _exchange(self, engine: Engine, place: Start, expires_at: float) -> Exchange:
        from undersong.shared.secagg.engine import ClientRound

        floors = self._policy().engine_floors.floors(engine.name)
        client_round = ClientRound(place.manifest, place.site_id, place.public, floors=floors)
        if place.own_key:
            client_round = replace(client_round, sign=self._signer(place.own_key), witness=place.witness)
        return Exchange(engine, client_round, self._aggregator, self._stored, self._sent, expires_at)

    def _signer(self, own_key: bytes) -> Callable[[bytes], bytes]:
        """Signs as the party that began the round; others know it by that key."""
        for identity in (self._signing, self._identity()):
            if identity is not None and public_bytes(identity.private_key.public_key()) == own_key:
                self._signing = identity
                return identity.private_key.sign
        raise TaskFailure("key-rotated", "this round was begun with a key that this site has replaced")


@dataclass(frozen=True, slots=True)
class Start:
    """What a round's beginning fixed, as it is stored."""

    manifest: RoundManifest
    site_id: SiteId
    public: Mapping[str, JsonValue]
    witness: bytes
    own_key: bytes

    def pack(self) -> bytes:
        """As bytes."""
        document = {
            "manifest": self.manifest.model_dump_json(),
            "site_id": self.site_id,
            "public": dict(self.public),
            "witness": self.witness,
            "own_key": self.own_key,
        }
        return bytes(msgpack.packb(document))

    @classmethod
    def unpack(cls, data: bytes) -> Start:
        """Return the inverse of `pack`."""
        found = msgpack.unpackb(data)
        manifest = RoundManifest.model_validate_json(found.pop("manifest"))
        return cls(manifest=manifest, **found)


def load_engine(name: str) -> Engine:
    """Return the engine, its code loaded and its kernels ready: seconds, the first time. In a thread."""
    from undersong.shared.secagg.engines import engine_named

    try:
        return engine_named(name)
    except Refusal as refusal:
        raise TaskFailure(refusal.slug(), refusal.detail) from refusal


def refused(problem: RequestRefused) -> TaskFailure:
    """Return what the aggregator's refusal of a step means for the task."""
    if problem.slug == "unknown":
        return TaskFailure("round-closed" if problem.status in GONE else "step-refused", str(problem))
    return TaskFailure(problem.slug, problem.detail)
