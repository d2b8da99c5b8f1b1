"""The keys service, as the agent speaks to it: whose signature a document carries, and which keys are revoked."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import structlog
from cryptography.exceptions import InvalidSignature

from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.peers.link import Away, Call, Link, RequestRefused
from undersong.shared.clock import Clock, utc_now
from undersong.shared.errors import Refusal, Unavailable
from undersong.shared.identity.authority import Holder, check_time, public_bytes
from undersong.shared.identity.directory import CertificateDirectory

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

REVOCATIONS_EVERY_S = 60.0
WITNESS_EVERY_S = 10.0  # a key that is replaced meanwhile costs this site one round


class Signatures:
    """Checks the platform's signatures against the federation's authority."""

    def __init__(
        self,
        directory: CertificateDirectory,
        link: Link,
        *,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory, self.link, self._clock, self._monotonic = directory, link, clock, monotonic
        self._revoked: set[str] = set()
        self._after = 0
        self._asked_at = float("-inf")
        self._witness = b"", float("-inf")

    async def check(self, service: str, keyid: str, signature: str, statement: bytes) -> None:
        """TaskFailure `signature-…` unless this service's certified, unrevoked key signed the statement."""
        holder = await self._holder(keyid)
        await self._refresh()
        if keyid in self._revoked:
            raise TaskFailure("signature-revoked", f"the {service}'s certificate is revoked")
        if holder.subject.kind != "service" or holder.subject.name != service:
            raise TaskFailure("signature-party", f"signed by {holder.subject.uri}, not by the {service}")
        try:
            check_time(holder, self._clock())
            holder.public_key.verify(bytes.fromhex(signature), statement)
        except Refusal as refusal:
            raise TaskFailure("signature-expired", refusal.detail) from refusal
        except (InvalidSignature, ValueError) as error:
            raise TaskFailure("signature-wrong", f"the {service}'s signature does not fit") from error

    async def key_of(self, service: str, keyid: str) -> bytes:
        """Return the raw public key of a service's certified, unrevoked certificate; TaskFailure `signature-…`."""
        holder = await self._holder(keyid)
        await self._refresh()
        if keyid in self._revoked:
            raise TaskFailure("signature-revoked", f"the {service}'s certificate is revoked")
        if (holder.subject.kind, holder.subject.name) != ("service", service):
            raise TaskFailure("signature-party", f"the certificate is {holder.subject.uri}'s, not the {service}'s")
        return public_bytes(holder.public_key)

    async def holder(self, keyid: str) -> Holder:
        """Return whom a certificate of the authority names, in force or not; TaskFailure `signature-unknown`."""
        return await self._holder(keyid)

    async def witness(self) -> bytes:
        """Return the raw public key that the keys service witnesses rounds with now, certified; asks until heard."""
        key, asked_at = self._witness
        if self._monotonic() - asked_at >= WITNESS_EVERY_S:
            asked_at = self._monotonic()
            key = await self._ask_witness()
            self._witness = key, asked_at
        return key

    async def _ask_witness(self) -> bytes:
        try:
            keyid = str(json.loads((await self.link.ask(Call("GET", "/v1/witness"))).content)["keyid"])
        except (KeyError, TypeError, ValueError) as error:
            raise TaskFailure("witness-unknown", "the keys service names no witness") from error
        key = await self.key_of("keys", keyid)
        try:
            check_time(await self._holder(keyid), self._clock())
        except Refusal as refusal:
            raise TaskFailure("signature-expired", refusal.detail) from refusal
        return key

    async def _holder(self, keyid: str) -> Holder:
        while True:
            try:
                return await self._directory.get(keyid)
            except Unavailable as unavailable:
                log.info("certificate.unread", reason=unavailable.detail)
                await asyncio.sleep(self.link.circuit.failed())
            except Refusal as refusal:
                raise TaskFailure("signature-unknown", refusal.detail) from refusal

    async def _refresh(self) -> None:
        """Learn of new revocations; a directory that is away leaves what is known."""
        now = self._monotonic()
        if now - self._asked_at < REVOCATIONS_EVERY_S:
            return
        self._asked_at = now
        try:
            more = True
            while more:
                answer = json.loads((await self.link.once(Call("GET", f"/v1/revocations?after={self._after}"))).content)
                for item in answer["items"]:
                    self._revoked.add(str(item["keyid"]))
                    self._after = max(self._after, int(item["sequence"]))
                more = answer["next"] is not None
        except (Away, RequestRefused, KeyError, TypeError, ValueError) as error:
            log.warning("revocations.unknown", reason=str(error))


class BlockingSignatures:
    """The same checks for an engine, which runs in a thread beside the event loop
    (`undersong.shared.secagg.engine.Verifier`).
    """

    def __init__(self, signatures: Signatures, loop: asyncio.AbstractEventLoop) -> None:
        self._signatures, self._loop = signatures, loop

    def check(self, service: str, keyid: str, signature: str, statement: bytes) -> None:
        """Raise TaskFailure `signature-…` unless this service's certified, unrevoked key signed the statement."""
        checking = self._signatures.check(service, keyid, signature, statement)
        asyncio.run_coroutine_threadsafe(checking, self._loop).result()
