"""The aggregator, as the coordinator asks it."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

import httpx
from pydantic import Field, FiniteFloat, ValidationError

from undersong.services.coordinator.peers.peer import Answer, Call, PartyAway, PartyRefused, Peer
from undersong.shared.ids import Digest, RoundId, SiteId, VersionId
from undersong.shared.wire.manifest import SignedManifest


class ClippingAnswer(Answer):
    """A round's clip norm that moves, the noisy share of updates within it, and the next round's."""

    norm: FiniteFloat
    within: FiniteFloat
    next: FiniteFloat


class ResultAnswer(Answer):
    """What the aggregator published: a version, or the values of summed statistics."""

    version_id: VersionId | None = None
    digest: Digest | None = None
    vector_length: int | None = None
    count: int = 0
    weight: float | None = None
    loss: float | None = None
    clipped: int | None = None
    values: list[float] | None = None
    metrics_layout: str | None = None
    clipping: ClippingAnswer | None = None


class Rejection(Answer):
    """An update that the aggregator accepted and could not use."""

    site_id: SiteId
    code: str
    message: str | None = None


class FaultAnswer(Answer):
    """What a site did against the engine's protocol in a round."""

    site_id: SiteId
    code: str
    message: str


class StepAnswer(Answer):
    """A step of the engine that takes no more messages."""

    step: str
    sites: int
    closed_at: datetime


class RoundReport(Answer):
    """A round as the aggregator sees it: whose updates are accepted, and whose could not be used."""

    id: RoundId
    state: str
    moves: int
    reason: str | None = None
    opening: bool = False
    step: str | None = None
    steps: list[StepAnswer] = Field(default_factory=list)
    got: int = 0
    accepted: list[SiteId] = Field(default_factory=list)
    rejections: list[Rejection] = Field(default_factory=list)
    faults: list[FaultAnswer] = Field(default_factory=list)
    result: ResultAnswer | None = None


class Aggregator(Peer):
    """The aggregator."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__(http, "aggregator")

    async def open(self, manifest: SignedManifest) -> dict[str, Any]:
        """Open the round; the engine's public material comes back. The same manifest again gives the same answer."""
        answer = await self._call(
            Call(
                "PUT",
                f"/v1/rounds/{manifest.manifest.round_id}",
                key=f"{manifest.manifest.round_id}/open",
                json=manifest.model_dump(mode="json"),
            )
        )
        public = answer.get("engine_public")
        if not isinstance(public, dict):
            raise PartyRefused("The aggregator gave no public material.", reason="engine-public-missing")
        return public

    async def report(self, round_id: RoundId) -> RoundReport:
        """Fetch the state of the round; raises NotFound."""
        answer = await self._call(Call("GET", f"/v1/rounds/{round_id}"))
        try:
            return RoundReport.model_validate(answer)
        except ValidationError as error:
            raise PartyAway("The aggregator's report is not understood.", retry_after_s=2) from error

    async def close(self, round_id: RoundId, moves: int) -> None:
        """Nothing more is expected: sum what came, or fail for want of a quorum; nothing where the round has moved.

        `moves`: those of the report from which this follows.
        """
        params = {"moves": str(moves)}
        await self._call(Call("POST", f"/v1/rounds/{round_id}/close", key=f"{round_id}/close/{moves}", params=params))

    async def cancel(self, round_id: RoundId) -> None:
        """Drop the round."""
        await self._call(Call("POST", f"/v1/rounds/{round_id}/cancel", key=f"{round_id}/cancel"))

    async def lose(self, round_id: RoundId, sites: Collection[SiteId]) -> None:
        """Wait for these sites no more; safe to repeat."""
        await self._call(Call("POST", f"/v1/rounds/{round_id}/lost", json={"sites": sorted(sites)}))
