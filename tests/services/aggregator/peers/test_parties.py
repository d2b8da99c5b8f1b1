"""Parties that are asked at the same time: enough answers suffice, refusals and absences are told apart."""

import asyncio
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from undersong.services.aggregator.domain.rounds import Reason
from undersong.services.aggregator.peers.parties import Parties, refusal_reason
from undersong.services.aggregator.peers.peer import AskRefused
from undersong.services.aggregator.peers.peer import Peer as Service
from undersong.shared.errors import Refusal, Unavailable
from undersong.shared.secagg.engine import Ask, Asks, AsksUnanswerable, Replies, RepliesContradict, checked_each
from undersong.shared.secagg.facts import WITNESS, PartyFacts
from undersong.shared.wire.helper import HELPER

SIGNED: Any = None
NEVER = asyncio.Event
few = settings(max_examples=60, deadline=None)


class Peer:
    """Answers, refuses, is away, or waits until the others were asked too."""

    def __init__(self, says: bytes | BaseException | asyncio.Event) -> None:
        self.says, self.asked, self.cancelled = says, False, False

    async def answer(self, stage: str, signed: Any, ask: Ask) -> bytes:
        self.asked = True
        if isinstance(self.says, asyncio.Event):
            try:
                await self.says.wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            return b"late"
        if isinstance(self.says, BaseException):
            raise self.says
        return self.says + ask.body


def asks(count: int, need: int) -> Asks:
    return Asks(tuple(Ask("custodian", bytes([index]), index) for index in range(count)), need)


async def test_enough_answers_suffice_and_others_are_not_waited_for() -> None:
    peers = [Peer(b"a"), Peer(NEVER()), Peer(b"c")]
    found = await Parties({"custodian": peers}).ask("sum", SIGNED, asks(3, 2))
    assert found == {0: b"a\0", 2: b"c\2"}
    assert all(peer.asked for peer in peers)
    assert peers[1].cancelled


async def test_all_are_asked_at_the_same_time() -> None:
    gate = asyncio.Event()

    class Last(Peer):
        async def answer(self, stage: str, signed: Any, ask: Ask) -> bytes:
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


def usable(_index: int, reply: bytes) -> None:
    if reply[:1] == b"?":
        raise ValueError("this is not an answer")


OUTCOMES: dict[str, Any] = {
    "good": b"a",
    "junk": b"?",
    "refuses": AskRefused("no"),
    "away": Unavailable("away"),
    "fails": TypeError("a bug in its client"),
    "cancels": asyncio.CancelledError(),
    "hangs": None,
}


@few
@given(st.lists(st.sampled_from(sorted(OUTCOMES)), min_size=1, max_size=6), st.data())
def test_whatever_one_party_does_is_held_against_it_alone(outcomes: list[str], data: st.DataObject) -> None:
    need = data.draw(st.integers(1, len(outcomes)))
    good, later, failed = (
        sum(outcomes.count(each) for each in names) for names in (["good"], ["away", "cancels", "hangs"], ["fails"])
    )

    async def ask() -> dict[int, bytes]:
        peers = [Peer(asyncio.Event() if OUTCOMES[each] is None else OUTCOMES[each]) for each in outcomes]
        questions = replace(asks(len(peers), need), check=checked_each(usable))
        return await Parties({"custodian": peers}, longest_s=0.01).ask("sum", SIGNED, questions)

    with structlog.testing.capture_logs() as logs:
        if good >= need:
            found = asyncio.run(ask())
            assert len(found) >= need
            assert {outcomes[index] for index in found} == {"good"}
        else:
            error = Unavailable if good + later >= need else TypeError if good + later + failed >= need else AskRefused
            with pytest.raises(error) as caught:
                asyncio.run(ask())
            if error is AskRefused:
                named = {index for index, each in enumerate(outcomes) if f"custodian {index + 1}" in str(caught.value)}
                assert len(outcomes) == 1 or (named and all(outcomes[i] in ("junk", "refuses") for i in named))
    for entry in logs:
        if entry["event"] in ("party.unusable", "party.refused", "party.failed"):
            assert outcomes[entry["index"]] in ("junk", "refuses", "fails")


async def test_answers_that_contradict_each_other_wait_for_more() -> None:
    """Until it is told who lies: then the others suffice."""

    def check(replies: Replies) -> dict[int, str]:
        said = Counter(reply[:1] for reply in replies.values())
        (most, times), *others = said.most_common()
        if others and others[0][1] == times:
            raise RepliesContradict("two answers differ")
        return {index: "the others say otherwise" for index, reply in replies.items() if reply[:1] != most}

    for says, expected in (
        ([b"a", b"b", b"a"], {0, 2}),
        ([b"a", b"b", Unavailable("away")], Unavailable),
        ([b"a", b"b", AskRefused("no")], AskRefused),
    ):
        parties, questions = Parties({"custodian": [Peer(each) for each in says]}), replace(asks(3, 2), check=check)
        if isinstance(expected, set):
            assert (await parties.ask("sum", SIGNED, questions)).keys() == expected
        else:
            with pytest.raises(expected):
                await parties.ask("sum", SIGNED, questions)


@pytest.mark.parametrize(
    ("indices", "need", "error"),
    [((0, 0), 1, ValueError), ((-1, 0), 1, ValueError), ((0, 1), 0, ValueError), ((0, 1), -1, ValueError),
     ((0, 1), 3, AsksUnanswerable), ((), 1, AsksUnanswerable)],
)  # fmt: skip
def test_questions_that_cannot_be_put_are_refused(indices: tuple[int, ...], need: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        Asks(tuple(Ask("custodian", b"", index) for index in indices), need)


@pytest.mark.parametrize("need", [0, -1, 4])
def test_a_party_of_which_more_answers_are_needed_than_there_are_is_a_mistake(need: int) -> None:
    with pytest.raises(ValueError, match="custodian"):
        PartyFacts("custodian", 3, need)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(200, stream=httpx.ByteStream(b"fine")), None),
        (httpx.Response(200, stream=httpx.ByteStream(b"x" * 100_001)), AskRefused),
        (
            httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"junk")),
            Unavailable,
        ),
        (httpx.Response(302, headers={"location": "http://other"}, stream=httpx.ByteStream(b"")), AskRefused),
        (httpx.Response(400, stream=httpx.ByteStream(b"[" * 100_000)), AskRefused),
        (httpx.Response(400, stream=httpx.ByteStream(json.dumps({"detail": "x" * 10_000}).encode())), AskRefused),
        (httpx.Response(503, stream=httpx.ByteStream(b"\xff")), Unavailable),
        (httpx.DecodingError("junk"), Unavailable),
        (httpx.ReadError("gone"), Unavailable),
    ],
)
async def test_no_answer_of_another_service_is_an_unexpected_exception(
    answer: httpx.Response | Exception, error: type[Refusal] | None
) -> None:
    def respond(_request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        asked = Service(http, httpx.Auth(), "http://keys", "keys service")._ask("GET", "/", answer_bytes=100_000)
        if error is None:
            assert (await asked).content == b"fine"
        else:
            with pytest.raises(error) as caught:
                await asked
            assert len(caught.value.detail) < 1000


async def test_a_party_that_this_aggregator_does_not_know_refuses() -> None:
    with pytest.raises(AskRefused, match="custodian of number 2"):
        await Parties({"custodian": [Peer(b"a")]}).ask("close", SIGNED, asks(2, 2))
    with pytest.raises(AskRefused, match="custodian"):
        await Parties({}).ask("close", SIGNED, asks(1, 1))


def test_a_round_that_fails_for_a_refusal_names_the_party() -> None:
    assert refusal_reason(Asks.one(WITNESS, b"")) is Reason.WITNESS_REFUSED
    assert refusal_reason(Asks.one(HELPER, b"")) is Reason.HELPER_REFUSED
    assert refusal_reason(asks(3, 2)) is Reason.CUSTODIAN_REFUSED
