"""The parties that an engine asks beside the sites: all at the same time, until enough of them have answered."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol

from services.aggregator.domain import Reason
from services.aggregator.peer import AskRefused
from shared.errors import Unavailable
from shared.secagg.engine import Ask, Asks
from shared.secagg.facts import WITNESS
from shared.wire.helper import HELPER
from shared.wire.manifest import SignedManifest

Stage = Literal["begin", "close", "sum"]
"""What an answer is for: to begin a round, to close a step, or to open the sum."""
_REFUSED: Final = {WITNESS: Reason.WITNESS_REFUSED, HELPER: Reason.HELPER_REFUSED}


class Asked(Protocol):
    """Another party; the same question again gets the same answer."""

    async def answer(self, stage: Stage, signed: SignedManifest, body: bytes) -> bytes:
        """Return what it says. Raises Unavailable or AskRefused."""


class Parties:
    """Every party that this aggregator can ask, by name and then by index."""

    def __init__(self, parties: Mapping[str, Sequence[Asked]]) -> None:
        self._parties = parties

    async def ask(self, stage: Stage, signed: SignedManifest, asks: Asks) -> dict[int, bytes]:
        """Put all questions at once and return the answers, by index, as soon as they suffice.

        Raises AskRefused when so many refuse that the others cannot suffice, else Unavailable: ask again.
        """
        tasks = {asyncio.create_task(self._answer(stage, signed, each)): each.index for each in asks.asks}
        answers: dict[int, bytes] = {}
        refused: list[AskRefused] = []
        away: list[Unavailable] = []
        waiting = set(tasks)
        try:
            while waiting and len(answers) < asks.need <= len(answers) + len(waiting):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    try:
                        answers[tasks[task]] = task.result()
                    except AskRefused as refusal:
                        refused.append(refusal)
                    except Unavailable as absence:
                        away.append(absence)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if len(answers) >= asks.need:
            return answers
        if len(tasks) - len(refused) < asks.need:
            raise refused[0]
        raise away[0]

    async def _answer(self, stage: Stage, signed: SignedManifest, ask: Ask) -> bytes:
        known = self._parties.get(ask.party, ())
        if ask.index >= len(known):
            raise AskRefused(f"this aggregator knows no {ask.party} of number {ask.index}")
        return await known[ask.index].answer(stage, signed, ask.body)


def refusal_reason(asks: Asks) -> Reason:
    """Return why a round fails when the parties that are asked refuse."""
    return _REFUSED.get(asks.asks[0].party, Reason.STEP_UNUSABLE)
