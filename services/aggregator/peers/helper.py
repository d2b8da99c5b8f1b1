"""The helper, as the aggregator speaks to it: the second server of a round, which holds the other half of each update.

Every question may be repeated and gets the same answer. What the helper signs is checked here, against the directory.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import httpx
from cryptography.exceptions import InvalidSignature

from undersong.services.aggregator.peers.parties import Stage
from undersong.services.aggregator.peers.peer import AskRefused, Peer
from undersong.shared.errors import NotFound
from undersong.shared.identity.authority import CertificateUntrusted, Subject
from undersong.shared.identity.directory import CertificateDirectory
from undersong.shared.ids import Digest, RoundId
from undersong.shared.secagg.engine import Ask
from undersong.shared.secagg.twoserver.messages import (
    MAX_BYTES,
    Accepted,
    Agree,
    Begin,
    Begun,
    MessageMalformed,
    ReportQuestion,
    ReportVerdict,
    pack_batch,
    unpack_verdicts,
)
from undersong.shared.wire.helper import HELPER, accepted_statement, key_statement
from undersong.shared.wire.manifest import SignedManifest

_BINARY: Final = {"content-type": "application/octet-stream"}
T = TypeVar("T", Begun, Accepted)
_PATIENCE: Final = httpx.Timeout(120.0, connect=5.0)  # it expands a vector for each report


class Helper(Peer):
    """`auth` signs for the audience ``helper``."""

    def __init__(
        self, http: httpx.AsyncClient, auth: httpx.Auth, helper_url: str, directory: CertificateDirectory
    ) -> None:
        super().__init__(http, auth, helper_url, HELPER)
        self._directory = directory

    async def begin(self, signed: SignedManifest, leader_key: bytes) -> bytes:
        """Return its keys for the round (`Begun`), its signature checked; Unavailable or AskRefused."""
        manifest = signed.manifest
        body = Begin(signed.model_dump_json().encode(), leader_key).pack()
        reply = (await self._ask("PUT", f"/rounds/{manifest.round_id}", content=body, headers=_BINARY)).content
        begun = _read(Begun, reply)
        statement = key_statement(manifest.digest(), begun.helper_key)
        await self._check(begun.keyid, begun.signature, statement)
        return reply

    async def answer(self, stage: Stage, signed: SignedManifest, ask: Ask) -> bytes:
        """Return what it says at this stage: `begin`, `agree` or `share`; Unavailable or AskRefused."""
        match stage:
            case "begin":
                return await self.begin(signed, ask.body)
            case "close":
                return await self.agree(signed, ask.body)
            case "sum":
                return await self.share(signed.manifest.round_id, ask.body, ask.answer_bytes)

    async def wake(self) -> None:
        """Check that it can be reached at all, before anything is computed for it; Unavailable."""
        await self._ask("GET", "/alive")

    async def verify(self, round_id: RoundId, questions: Sequence[ReportQuestion]) -> list[ReportVerdict]:
        """Return its verdict on each report; Unavailable or AskRefused."""
        path = f"/rounds/{round_id}/reports"
        more: dict[str, Any] = {"headers": _BINARY, "timeout": _PATIENCE, "answer_bytes": MAX_BYTES}
        answer = await self._ask("POST", path, content=pack_batch(questions), **more)
        try:
            return unpack_verdicts(answer.content, len(questions))
        except MessageMalformed as error:
            raise AskRefused(error.detail) from error

    async def agree(self, signed: SignedManifest, ask: bytes) -> bytes:
        """Return its signature over the accepted set (`Accepted`), checked; Unavailable or AskRefused."""
        manifest, agree = signed.manifest, Agree.unpack(ask)
        path = f"/rounds/{manifest.round_id}/set"
        reply = (await self._ask("POST", path, content=ask, headers=_BINARY, timeout=_PATIENCE)).content
        said = _read(Accepted, reply)
        statement = accepted_statement(manifest.digest(), agree.members, agree.root, said.share_digest)
        await self._check(said.keyid, said.signature, statement)
        return reply

    async def share(self, round_id: RoundId, leader_key: bytes, answer_bytes: int) -> bytes:
        """Return its share of the sum, sealed to the leader's key of the round; Unavailable or AskRefused."""
        more: dict[str, Any] = {"headers": _BINARY, "timeout": _PATIENCE, "answer_bytes": answer_bytes}
        return (await self._ask("POST", f"/rounds/{round_id}/share", content=leader_key, **more)).content

    async def _check(self, keyid: bytes, signature: bytes, statement: bytes) -> None:
        try:
            holder = await self._directory.get(Digest(keyid.hex()))
            if holder.subject != Subject("service", HELPER):
                raise AskRefused(f"the answer is signed by {holder.subject.uri}, not by the helper")
            holder.public_key.verify(signature, statement)
        except (NotFound, CertificateUntrusted) as error:
            raise AskRefused(f"the helper's certificate cannot be believed: {error.detail}") from error
        except InvalidSignature as error:
            raise AskRefused("the helper's signature does not hold") from error


def _read(kind: type[T], data: bytes) -> T:
    try:
        return kind.unpack(data)
    except MessageMalformed as error:
        raise AskRefused(error.detail) from error
