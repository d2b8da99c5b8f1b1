"""The aggregator, as the agent speaks to it: steps with their answers, one body in, one signed receipt out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from pydantic import BaseModel, ConfigDict

from undersong.services.agent.peers.link import Call, Link
from undersong.shared.identity.digests import content_digest_from
from undersong.shared.ids import Digest, RoundId
from undersong.shared.wire.forms import DigestText, Hex
from undersong.shared.wire.updates import ReceiptDoc

PIECE = 512 * 1024
MEDIA_TYPE = "application/octet-stream"
WAIT_S = 25
ANSWER_TIMEOUT = httpx.Timeout(WAIT_S + 20.0, connect=5.0)
STEP_BYTES = 16 * 2**20  # a step's message, and the answer to one
UPLOAD_TIMEOUT = httpx.Timeout(60.0, connect=5.0)  # without progress, not in total


class Receipt(BaseModel):
    """The aggregator's signed acknowledgement."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    round_id: RoundId
    site_id: str
    digest: DigestText
    size: int
    accepted_at: str
    keyid: DigestText
    signature: Hex

    def document(self) -> ReceiptDoc:
        """Return what the signature covers."""
        return ReceiptDoc.model_validate(self.model_dump(exclude={"keyid", "signature"}))


class Aggregator:
    """Calls to the aggregator."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def upload(
        self, round_id: RoundId, body: Path, digest: Digest, size: int, *, signature: bytes | None = None
    ) -> Receipt:
        """Send these bytes until they are acknowledged or refused (Problem). The same bytes at every try.

        `signature`: the site's, over the digest, where the engine has bodies signed.
        """
        headers = {
            "content-type": MEDIA_TYPE,
            "content-length": str(size),
            "content-digest": content_digest_from(digest),
        }
        if signature is not None:
            headers["update-signature"] = signature.hex()
        path = f"/v1/rounds/{round_id}/updates"
        call = Call("PUT", path, content=lambda: _pieces(body), headers=headers, timeout=UPLOAD_TIMEOUT)
        return Receipt.model_validate_json((await self.link.ask(call)).content)

    async def say(self, round_id: RoundId, step: str, message: bytes, *, wait_s: int = WAIT_S) -> bytes | None:
        """Send a step's message until it is accepted or refused (Problem). The same bytes at every try.

        The answer, where the step ends within `wait_s` of it; Problem also when this site has no part in what follows.
        """
        path = f"/v1/rounds/{round_id}/steps/{step}?wait_s={wait_s}"
        headers = {"content-type": MEDIA_TYPE}
        call = Call("PUT", path, body=message, headers=headers, timeout=ANSWER_TIMEOUT, answer_bytes=STEP_BYTES)
        said = await self.link.ask(call)
        return said.content if said.status_code == httpx.codes.OK else None

    async def answer(self, round_id: RoundId, step: str) -> bytes | None:
        """Wait for a step's end; None when it has not ended yet, Problem when this site has no part in what follows."""
        path = f"/v1/rounds/{round_id}/steps/{step}/answer?wait_s={WAIT_S}"
        found = await self.link.ask(Call("GET", path, timeout=ANSWER_TIMEOUT, answer_bytes=STEP_BYTES))
        return None if found.status_code == httpx.codes.NO_CONTENT else found.content


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
