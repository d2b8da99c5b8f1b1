"""The witness signs one set for an attempt of an engine with one message a site, and opens its nonce with that."""

from collections.abc import Iterator
from typing import Any

import httpx
import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.services.keys.parties import SITES, URL, Attempt, Federation
from undersong.services.keys.wiring import Components
from undersong.shared.ids import new_id
from undersong.shared.secagg import engines, transcript
from undersong.shared.secagg.oneshot.facts import FACTS, NAME
from undersong.shared.secagg.oneshot.messages import SetAsk, Witnessed
from undersong.shared.secagg.oneshot.sets import set_statement
from undersong.shared.secagg.oneshot.terms import terms
from undersong.shared.secagg.transcript import nonce_commitment


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "ENGINES", {**engines.ENGINES, NAME: FACTS})
        patch.setattr("undersong.services.keys.witness.ENGINES", engines.ENGINES)
        yield


@pytest.fixture
async def federation(http: httpx.AsyncClient, components: Components) -> Federation:
    return await Federation.enrolled(http, components)


async def begun(federation: Federation, round_id: str | None = None, **changes: Any) -> Attempt:
    round_id = round_id or new_id("rnd")
    committed = (await federation.commit(round_id)).json()
    params = {"custodians": 3, "threshold": 2, "nonce_commitment": committed["commitment"]}
    params |= changes.pop("params", {})
    return await federation.begin(round_id, engine=NAME, engine_params=params, **changes)


async def asked(attempt: Attempt, places: frozenset[int] = frozenset({0, 1, 3}), salt: int = 0) -> httpx.Response:
    root = transcript.body_root({place: bytes([place, salt]) * 16 for place in places})
    ask = SetAsk(transcript.bitmap(places, len(SITES)), root).pack()
    body = {"manifest": attempt.signed.model_dump_json().encode(), "ask": ask}
    return await attempt.federation.http.post(
        f"{URL}/v1/rounds/{attempt.round_id}/witness",
        content=msgpack.packb(body),
        headers={"content-type": "application/octet-stream"},
        auth=attempt.federation.auth("aggregator"),
    )


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, str(response.json()["type"]).rpartition(":")[2]


async def test_one_set_is_signed_and_the_nonce_is_opened_with_it(federation: Federation) -> None:
    attempt = await begun(federation)
    first = await asked(attempt)
    assert first.status_code == 200, first.text
    said, fixed = Witnessed.unpack(first.content), terms(attempt.signed.manifest)
    assert nonce_commitment(said.nonce) == fixed.commitment
    places = frozenset({0, 1, 3})
    root = transcript.body_root({place: bytes([place, 0]) * 16 for place in places})
    statement = set_statement(fixed, SetAsk(transcript.bitmap(places, len(SITES)), root), said.nonce)
    Ed25519PublicKey.from_public_bytes(attempt.witness_key).verify(said.signature, statement)
    assert (await asked(attempt)).content == first.content
    for other in (await asked(attempt, salt=1), await asked(attempt, frozenset({0, 1, 2, 3}))):
        assert problem(other) == (409, "already-witnessed")


async def test_one_round_is_signed_for_an_attempt(federation: Federation) -> None:
    assert (await asked(await begun(federation))).status_code == 200
    assert problem(await asked(await begun(federation))) == (409, "already-witnessed")
    assert (await asked(await begun(federation, attempt=2))).status_code == 200


async def test_a_set_that_breaks_a_rule_is_not_signed(federation: Federation) -> None:
    attempt = await begun(federation)
    assert problem(await asked(attempt, frozenset({0, 1}))) == (403, "set-refused")
    assert (await asked(attempt)).status_code == 200, "a refusal uses nothing up"
    other = await begun(federation, attempt=2, params={"nonce_commitment": "0" * 64})
    assert problem(await asked(other)) == (403, "set-refused")


async def test_a_question_in_another_form_is_refused(federation: Federation) -> None:
    attempt = await begun(federation)
    answer = await attempt.ask({"what": "survivors"})
    assert problem(answer) == (422, "message-malformed")
