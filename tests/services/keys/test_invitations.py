"""Invitations: the coordinator asks for a token, and only the key that an operator approved gets a certificate."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from undersong.services.keys.domain import fingerprint_of
from undersong.services.keys.invitations import Invitations
from undersong.services.keys.settings import KeysSettings
from undersong.services.keys.wiring import Components
from undersong.shared.errors import Refusal
from undersong.shared.identity.authority import Subject

SITE = Subject("site", "site_a", "fed_x")
DAY = timedelta(days=1)


@pytest.fixture
def invitations(app: FastAPI) -> Invitations:
    """What the coordinator asks; its signature is for tests/hostile."""
    found: Invitations = app.state.invitations
    return found


def reason(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].rpartition(":")[2]


async def waiting(http: httpx.AsyncClient, operator: dict[str, str]) -> list[dict[str, Any]]:
    listed = await http.get("/v1/invitations", params={"site_id": "site_a"}, headers=operator)
    assert listed.status_code == 200, listed.text
    return list(listed.json()["items"])


async def approve(http: httpx.AsyncClient, operator: dict[str, str], id_: str, fingerprint: str) -> httpx.Response:
    return await http.post(f"/v1/invitations/{id_}/approvals", json={"fingerprint": fingerprint}, headers=operator)


@pytest.mark.both_databases
async def test_a_key_is_certified_after_its_approval_only(http, operator, invitations, party, stranger) -> None:
    new = await invitations.invite(SITE, "ada", DAY, "key-1")
    assert new == await invitations.invite(SITE, "ada", DAY, "key-1"), "asked again, the same token"
    assert [each["state"] for each in await waiting(http, operator)] == ["invited"]
    own = fingerprint_of(party.public_key)
    assert reason(await approve(http, operator, new.token_id, own)) == (409, "key-not-waiting")

    pending = await party.enrol(new.token)
    assert reason(pending) == (503, "approval-pending")
    assert own in pending.json()["detail"]
    assert pending.headers["retry-after"] == "5"
    assert reason(await stranger.enrol(new.token)) == (409, "token-used")
    (told,) = await waiting(http, operator)
    assert (told["state"], told["fingerprint"], told["invited_by"]) == ("waiting", own, "ada")
    assert new.token not in str(told)
    foreign = fingerprint_of(stranger.public_key)
    assert reason(await approve(http, operator, new.token_id, foreign)) == (409, "key-not-waiting")
    assert reason(await party.enrol(new.token)) == (503, "approval-pending")

    for _ in range(2):
        assert (await approve(http, operator, new.token_id, own)).json()["state"] == "approved"
    answers = await asyncio.gather(*(party.enrol(new.token) for _ in range(4)))
    assert sorted(each.status_code for each in answers) == [200, 200, 200, 201]
    assert reason(await approve(http, operator, "tok_unknown", own)) == (404, "invitation-unknown")
    assert (await http.get("/v1/invitations")).status_code == 401


async def test_a_new_certificate_by_invitation_ends_the_earlier_ones(
    http, operator, invitations, site_token, party, stranger
) -> None:
    lost = (await party.enrol(site_token)).json()["keyid"]
    new = await invitations.invite(SITE, "ada", DAY, None)
    await stranger.enrol(new.token)
    assert (await http.get(f"/v1/certificates/{lost}")).json()["revoked_at"] is None, "an invitation alone ends nothing"
    await approve(http, operator, new.token_id, fingerprint_of(stranger.public_key))
    assert (await stranger.enrol(new.token)).status_code == 201
    assert (await http.get(f"/v1/certificates/{lost}")).json()["reason"] == "enrolled again"


async def test_a_key_that_was_approved_gets_no_certificate_after_a_later_invitation(
    http, operator, invitations, party, stranger
) -> None:
    stolen = await invitations.invite(SITE, "ada", DAY, None)
    await stranger.enrol(stolen.token)
    await approve(http, operator, stolen.token_id, fingerprint_of(stranger.public_key))
    new = await invitations.invite(SITE, "ada", DAY, None)
    refused = await stranger.enrol(stolen.token)
    assert reason(refused) == (410, "token-expired"), refused.text
    assert "undersong site invite site_a" in refused.json()["detail"]
    await party.enrol(new.token)
    await approve(http, operator, new.token_id, fingerprint_of(party.public_key))
    issued = await party.enrol(new.token)
    await invitations.invite(SITE, "ada", DAY, None)
    again = await party.enrol(new.token)
    assert (issued.status_code, again.status_code) == (201, 200), "an answer that was lost is given again"
    assert again.json()["keyid"] == issued.json()["keyid"]


async def test_an_invitation_expires_and_is_replaced_by_the_next(http, operator, invitations, party, clock) -> None:
    first = await invitations.invite(SITE, "ada", DAY, None)
    second = await invitations.invite(SITE, "bob", DAY, None)
    assert reason(await party.enrol(first.token)) == (410, "token-expired")
    assert reason(await party.enrol(second.token)) == (503, "approval-pending")
    clock.ahead = timedelta(days=2)
    assert reason(await party.enrol(second.token)) == (410, "token-expired")
    own = fingerprint_of(party.public_key)
    assert reason(await approve(http, operator, second.token_id, own)) == (409, "key-not-waiting")
    assert {each["state"] for each in await waiting(http, operator)} == {"expired"}


async def test_a_key_cannot_be_reused_for_another_party(invitations) -> None:
    await invitations.invite(SITE, "ada", DAY, "key-1")
    with pytest.raises(Refusal, match="another party"):
        await invitations.invite(Subject("site", "site_b", "fed_x"), "ada", DAY, "key-1")


async def test_one_organisation_may_trust_its_coordinator_or_refuse(components: Components, http, party) -> None:
    trusting = Invitations(components.database, components.authority, "trust")
    new = await trusting.invite(SITE, "ada", DAY, None)
    assert (await party.enrol(new.token)).status_code == 201
    refusing = Invitations(components.database, components.authority, "refuse")
    with pytest.raises(Refusal, match="undersong site enroll"):
        await refusing.invite(SITE, "ada", DAY, None)
    assert KeysSettings().invitations == "approve"
