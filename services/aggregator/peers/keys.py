"""The keys service, as the aggregator speaks to it: as the witness of a round, and as the keeper of the log."""

import httpx
import msgpack

from undersong.services.aggregator.peers.parties import Stage
from undersong.services.aggregator.peers.peer import AskRefused as AskRefused
from undersong.services.aggregator.peers.peer import Peer
from undersong.shared.secagg.engine import Ask
from undersong.shared.transparency.documents import RoundRecord
from undersong.shared.wire.manifest import SignedManifest


class Keys(Peer):
    """`auth` signs for the audience ``keys``."""

    def __init__(self, http: httpx.AsyncClient, auth: httpx.Auth, keys_url: str) -> None:
        super().__init__(http, auth, keys_url, "keys service")

    async def ask(self, signed: SignedManifest, ask: bytes) -> bytes:
        """Return what the witness says; the same question again gets the same answer. Unavailable or AskRefused."""
        content = msgpack.packb({"manifest": signed.model_dump_json().encode(), "ask": ask}, use_bin_type=True)
        path = f"/rounds/{signed.manifest.round_id}/witness"
        headers = {"content-type": "application/octet-stream"}
        return (await self._ask("POST", path, content=content, headers=headers)).content

    async def answer(self, stage: Stage, signed: SignedManifest, ask: Ask) -> bytes:
        """Return what the witness says to close a step; it is asked nothing else. Unavailable or AskRefused."""
        if stage != "close":
            raise AskRefused("a witness is asked only to close a step")
        return await self.ask(signed, ask.body)

    async def record(self, record: RoundRecord) -> None:
        """Submit a round's record for the log. Idempotent. Raises Unavailable or AskRefused."""
        headers = {"content-type": "application/json"}
        path = f"/rounds/{record.round_id}/records"
        await self._ask("POST", path, content=record.model_dump_json(), headers=headers)
