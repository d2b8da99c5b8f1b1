"""The aggregator, as the agent speaks to it: one body in, one signed receipt out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from pydantic import BaseModel, ConfigDict

from services.agent.link import Call, Link
from shared.identity.digests import content_digest_from
from shared.ids import Digest, RoundId
from shared.wire.manifest import DigestText, Hex
from shared.wire.updates import ReceiptDoc

PIECE = 512 * 1024
MEDIA_TYPE = "application/octet-stream"
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
        """What the signature covers."""
        return ReceiptDoc.model_validate(self.model_dump(exclude={"keyid", "signature"}))


class Aggregator:
    """Calls to the aggregator."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def upload(self, round_id: RoundId, body: Path, digest: Digest, size: int) -> Receipt:
        """Send these bytes until they are acknowledged or refused (Problem). The same bytes at every try."""
        headers = {
            "content-type": MEDIA_TYPE,
            "content-length": str(size),
            "content-digest": content_digest_from(digest),
        }
        path = f"/v1/rounds/{round_id}/updates"
        call = Call("PUT", path, content=lambda: _pieces(body), headers=headers, timeout=UPLOAD_TIMEOUT)
        return Receipt.model_validate_json((await self.link.ask(call)).content)


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
