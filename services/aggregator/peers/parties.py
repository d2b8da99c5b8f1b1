"""The parties that an engine asks beside the sites: all at the same time, until enough of them gave a usable answer.

No party can end the asking of the others: whatever one does (refuse, be away, answer too late or too much, answer what
cannot be read, or make its client fail) is held against that party alone, and logged with its name.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import structlog

from undersong.services.aggregator.domain.rounds import Reason
from undersong.services.aggregator.peers.peer import AskRefused
from undersong.shared.errors import Unavailable
from undersong.shared.secagg.engine import Ask, Asks, RepliesContradict, all_usable
from undersong.shared.secagg.facts import WITNESS
from undersong.shared.wire.custodian import CUSTODIAN
from undersong.shared.wire.helper import HELPER
from undersong.shared.wire.manifest import SignedManifest

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
Stage = Literal["begin", "close", "sum"]
"""What an answer is for: to begin a round, to close a step, or to open the sum."""
_REFUSED: Final = {WITNESS: Reason.WITNESS_REFUSED, HELPER: Reason.HELPER_REFUSED, CUSTODIAN: Reason.CUSTODIAN_REFUSED}
_LONGEST_S: Final = 600.0


class PartyClient(Protocol):
    """Another party; the same question again gets the same answer."""

    async def answer(self, stage: Stage, signed: SignedManifest, ask: Ask) -> bytes:
        """Return what it says. Raises Unavailable or AskRefused."""


class Parties:
    """Every party that this aggregator can ask, by name and then by index; each has `longest_s` for an answer."""

    def __init__(self, parties: Mapping[str, Sequence[PartyClient]], *, longest_s: float = _LONGEST_S) -> None:
        self._parties, self._longest_s = parties, longest_s

    async def ask(self, stage: Stage, signed: SignedManifest, asks: Asks) -> dict[int, bytes]:
        """Put all questions at once and return the usable answers, by index, as soon as they suffice.

        Where the asks have patience, further answers are waited for that long.

        Raises AskRefused, with the names of the parties, when so many refuse or give unusable answers that the others
        cannot suffice, and Unavailable when those that are away could: ask again. What a party's client raises
        unexpectedly is raised only when nothing else is left.
        """
        asking = _Asking(stage, asks)
        tasks = {asyncio.create_task(self._answer(stage, signed, each)): each for each in asks.asks}
        waiting = set(tasks)
        try:
            while waiting and not asking.enough and asking.possible(len(waiting)):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                await asking.take_all(tasks, done)
            if waiting and asking.enough and asks.patience_s:
                done, waiting = await asyncio.wait(waiting, timeout=asks.patience_s)
                await asking.take_all(tasks, done)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if not asking.possible(0):
            await asking.check()  # so that those are named whose answers were of no use
        return asking.result()

    async def _answer(self, stage: Stage, signed: SignedManifest, ask: Ask) -> bytes:
        known = self._parties.get(ask.party, ())
        if not 0 <= ask.index < len(known):
            raise AskRefused(f"this aggregator knows no {ask.party} of number {ask.index + 1}")
        try:
            async with asyncio.timeout(self._longest_s):
                return await known[ask.index].answer(stage, signed, ask)
        except TimeoutError as error:
            raise Unavailable(f"the {ask.party} did not answer within {self._longest_s:g} seconds") from error


@dataclass(slots=True)
class _Asking:
    """What came of one set of questions so far."""

    stage: Stage
    asks: Asks
    answers: dict[int, bytes] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    away: list[Unavailable] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)
    contradiction: RepliesContradict | None = None
    enough: bool = False

    def possible(self, more: int) -> bool:
        """Return whether `more` further answers could suffice."""
        return len(self.answers) + more >= self.asks.need

    async def take_all(self, asks: Mapping[asyncio.Task[bytes], Ask], done: Iterable[asyncio.Task[bytes]]) -> None:
        """Note what these parties answered, and see whether that suffices."""
        for task in done:
            self.take(asks[task], task)
        if self.possible(0):
            await self.check()

    def take(self, ask: Ask, task: asyncio.Task[bytes]) -> None:
        """Note what a party answered, or what became of it."""
        try:
            self.answers[ask.index] = task.result()
        except AskRefused as refusal:
            self._refuse(ask, "party.refused", refusal.detail)
        except Unavailable as absence:
            self.away.append(absence)
            log.info("party.away", party=ask.party, index=ask.index, stage=self.stage, detail=absence.detail)
        except asyncio.CancelledError:  # by its own client: who waits for us would have been stopped elsewhere
            self.away.append(Unavailable(f"the request to the {ask.party} was broken off"))
            log.warning("party.broken_off", party=ask.party, index=ask.index, stage=self.stage)
        except Exception as error:
            self.failed.append(error)
            log.exception("party.failed", party=ask.party, index=ask.index, stage=self.stage)

    async def check(self) -> None:
        """Take out the answers that are of no use, and see whether the others suffice."""
        self.contradiction, quick = None, self.asks.check is all_usable or not self.answers
        try:
            unusable = {} if quick else await asyncio.to_thread(self.asks.check, self.answers)
        except RepliesContradict as contradiction:
            self.contradiction = contradiction
            return
        for ask in self.asks.asks:
            if ask.index in unusable and self.answers.pop(ask.index, None) is not None:
                self._refuse(ask, "party.unusable", unusable[ask.index])
        self.enough = self.possible(0)

    def _refuse(self, ask: Ask, event: str, detail: str) -> None:
        log.warning(event, party=ask.party, index=ask.index, stage=self.stage, detail=detail)
        name = f"{ask.party} {ask.index + 1}: " if len(self.asks.asks) > 1 else ""
        self.refused.append(f"{name}{detail}")

    def result(self) -> dict[int, bytes]:
        """Return the answers, or raise why there are too few."""
        if self.enough:
            return self.answers
        left = len(self.asks.asks) - len(self.refused)
        if self.away and left - len(self.failed) >= self.asks.need:
            raise self.away[0]
        if self.failed and left >= self.asks.need:
            raise self.failed[0]
        why = [*self.refused, *([self.contradiction.detail] if self.contradiction else ())]
        raise AskRefused("; ".join(why))


def refusal_reason(asks: Asks) -> Reason:
    """Return why a round fails when the parties that are asked refuse."""
    return _REFUSED.get(asks.asks[0].party, Reason.STEP_UNUSABLE)
