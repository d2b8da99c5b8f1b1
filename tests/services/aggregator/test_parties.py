"""Parties that are asked at the same time: enough answers suffice, refusals and absences are told apart."""

import asyncio
from typing import Any

import pytest

from services.aggregator.domain import Reason
from services.aggregator.parties import Parties, refusal_reason
from services.aggregator.peer import AskRefused
from shared.errors import Unavailable
from shared.secagg.engine import Ask, Asks
from shared.secagg.facts import WITNESS
from shared.wire.helper import HELPER

SIGNED: Any = None
NEVER = asyncio.Event


class Peer:
    """Answers, refuses, is away, or waits until the others were asked too."""

    def __init__(self, says: bytes | Exception | asyncio.Event) -> None:
        self.says, self.asked, self.cancelled = says, False, False

    async def answer(self, stage: str, signed: Any, body: bytes) -> bytes:
        self.asked = True
        if isinstance(self.says, asyncio.Event):
            try:
                await self.says.wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            return b"late"
        if isinstance(self.says, Exception):
            raise self.says
        return self.says + body


def asks(count: int, need: int) -> Asks:
    return Asks(tuple(Ask("custodian", bytes([index]), index) for index in range(count)), need)


async def test_enough_answers_suffice_and_nobody_else_is_waited_for() -> None:
    peers = [Peer(b"a"), Peer(NEVER()), Peer(b"c")]
    found = await Parties({"custodian": peers}).ask("sum", SIGNED, asks(3, 2))
    assert found == {0: b"a\0", 2: b"c\2"}
    assert all(peer.asked for peer in peers)
    assert peers[1].cancelled


async def test_all_are_asked_at_the_same_time() -> None:
    gate = asyncio.Event()

    class Last(Peer):
        async def answer(self, stage: str, signed: Any, body: bytes) -> bytes:
            gate.set()
            return b"last"

    found = await Parties({"custodian": [Peer(gate), Last(b"")]}).ask("close", SIGNED, asks(2, 2))
    assert found == {0: b"late", 1: b"last"}


@pytest.mark.parametrize(
    ("says", "need", "error"),
    [
        ([AskRefused("no"), AskRefused("no"), b"c"], 2, AskRefused),
        ([AskRefused("no"), Unavailable("away"), b"c"], 2, Unavailable),  # it may answer later
        ([AskRefused("no"), Unavailable("away"), b"c"], 3, AskRefused),
        ([Unavailable("away"), Unavailable("away"), b"c"], 2, Unavailable),
        ([AskRefused("no"), Unavailable("away"), b"c"], 1, None),
    ],
)
async def test_a_refusal_is_final_only_where_the_others_cannot_suffice(
    says: list[Any], need: int, error: type[Exception] | None
) -> None:
    parties = Parties({"custodian": [Peer(each) for each in says]})
    if error is None:
        assert await parties.ask("begin", SIGNED, asks(3, need)) == {2: b"c\2"}
        return
    with pytest.raises(error):
        await parties.ask("begin", SIGNED, asks(3, need))


async def test_a_party_that_this_aggregator_does_not_know_refuses() -> None:
    with pytest.raises(AskRefused, match="custodian of number 1"):
        await Parties({"custodian": [Peer(b"a")]}).ask("close", SIGNED, asks(2, 2))
    with pytest.raises(AskRefused, match="custodian"):
        await Parties({}).ask("close", SIGNED, asks(1, 1))


def test_a_round_that_fails_for_a_refusal_names_the_party() -> None:
    assert refusal_reason(Asks.one(WITNESS, b"")) is Reason.WITNESS_REFUSED
    assert refusal_reason(Asks.one(HELPER, b"")) is Reason.HELPER_REFUSED
    assert refusal_reason(asks(3, 2)) is Reason.STEP_UNUSABLE
