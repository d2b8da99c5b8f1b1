"""Asking the coordinator about tokens: remembered for a while, one question at a time, never guessed."""

import asyncio
import json

import httpx
import pytest

from undersong.shared.errors import Unavailable
from undersong.shared.web.access import Grant, IntrospectionClient, Role

ADA = {"active": True, "user_id": "usr_1", "name": "ada", "roles": [{"role": "scientist", "federation_id": "fed_x"}]}


class Coordinator:
    def __init__(self, status: int = 200) -> None:
        self.status, self.asked = status, 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        known = json.loads(request.content)["token"] == "ust_ada"
        return httpx.Response(self.status, json=ADA if known else {"active": False})


async def test_answers_are_remembered_and_shared() -> None:
    coordinator = Coordinator()
    async with httpx.AsyncClient(transport=httpx.MockTransport(coordinator)) as http:
        tokens = IntrospectionClient(http, "http://coordinator")
        found = await asyncio.gather(*(tokens.lookup("ust_ada") for _ in range(20)))
        assert await tokens.lookup("ust_bob") is None
        assert await tokens.lookup("ust_bob") is None
    assert coordinator.asked == 2
    assert {person.name for person in found if person} == {"ada"}
    assert found[0] is not None
    assert found[0].grants == (Grant(Role.SCIENTIST, "fed_x"),)


@pytest.mark.parametrize("status", [500, 503, 401])
async def test_without_an_answer_nobody_is_let_in_or_called_unknown(status: int) -> None:
    coordinator = Coordinator(status)
    async with httpx.AsyncClient(transport=httpx.MockTransport(coordinator)) as http:
        tokens = IntrospectionClient(http, "http://coordinator")
        for _ in range(2):
            with pytest.raises(Unavailable):
                await tokens.lookup("ust_ada")
        coordinator.status = 200
        assert await tokens.lookup("ust_ada") is not None
