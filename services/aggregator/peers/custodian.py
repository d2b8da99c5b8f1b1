"""A custodian, as the aggregator speaks to it: one of several holders of shares of every site's key.

Every question may be repeated and gets the same answer. What a custodian signs is checked here, against the directory:
each has a certificate of its own name, so that none can answer for another.
"""

from typing import Any, Final

import httpx
from cryptography.exceptions import InvalidSignature

from undersong.services.aggregator.peers.parties import Stage
from undersong.services.aggregator.peers.peer import AskRefused, Peer
from undersong.shared.errors import NotFound
from undersong.shared.identity.authority import CertificateUntrusted, Subject
from undersong.shared.identity.directory import CertificateDirectory
from undersong.shared.ids import Digest
from undersong.shared.secagg.engine import Ask
from undersong.shared.secagg.oneshot.messages import BeginAsk, BegunReply
from undersong.shared.secagg.strict import MessageMalformed
from undersong.shared.wire.custodian import CUSTODIAN, custodian_service, key_statement
from undersong.shared.wire.manifest import SignedManifest

_BINARY: Final = {"content-type": "application/octet-stream"}
_PATIENCE: Final = httpx.Timeout(120.0, connect=5.0)  # it opens a share of each site


class Custodian(Peer):
    """`auth` signs for the audience of this custodian, whose place is `index`."""

    def __init__(
        self, http: httpx.AsyncClient, auth: httpx.Auth, url: str, directory: CertificateDirectory, index: int
    ) -> None:
        super().__init__(http, auth, url, CUSTODIAN)
        self._directory, self._index = directory, index

    async def answer(self, stage: Stage, signed: SignedManifest, ask: Ask) -> bytes:
        """Return what it says at this stage: its key, its words about shares, its sum; Unavailable or AskRefused."""
        path = f"/rounds/{signed.manifest.round_id}"
        more: dict[str, Any] = {"headers": _BINARY, "timeout": _PATIENCE, "answer_bytes": ask.answer_bytes}
        match stage:
            case "begin":
                return await self._begin(signed, path, more)
            case "close":
                return (await self._ask("POST", f"{path}/checks", content=ask.body, **more)).content
            case "sum":
                return (await self._ask("POST", f"{path}/sum", content=ask.body, **more)).content

    async def _begin(self, signed: SignedManifest, path: str, more: dict[str, Any]) -> bytes:
        body = BeginAsk(signed.model_dump_json().encode()).pack()
        reply = (await self._ask("PUT", path, content=body, **more)).content
        try:
            begun = BegunReply.unpack(reply)
        except MessageMalformed as error:
            raise AskRefused(error.detail) from error
        statement = key_statement(signed.manifest.digest(), self._index, begun.share_key)
        await self._check(begun.keyid, begun.signature, statement)
        return reply

    async def _check(self, keyid: bytes, signature: bytes, statement: bytes) -> None:
        try:
            holder = await self._directory.get(Digest(keyid.hex()))
            if holder.subject != Subject("service", custodian_service(self._index)):
                raise AskRefused(f"the answer is signed by {holder.subject.uri}, not by the {self._name}")
            holder.public_key.verify(signature, statement)
        except (NotFound, CertificateUntrusted) as error:
            raise AskRefused(f"the certificate of the {self._name} cannot be believed: {error.detail}") from error
        except InvalidSignature as error:
            raise AskRefused(f"the signature of the {self._name} does not hold") from error
