"""Enrolment over HTTP: one token, one key, one certificate, however often and however many at once."""

import asyncio
from datetime import timedelta

import httpx
import pytest
from cryptography import x509
from sqlalchemy import text

from undersong.shared.database import Database
from undersong.shared.errors import reason_of
from undersong.shared.identity.authority import Subject, check_certificate


def slug(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].removeprefix("urn:undersong:problem:")


async def test_a_token_and_a_proof_give_a_certificate(http, site_token, party) -> None:
    response = await party.enrol(site_token)
    assert response.status_code == 201
    pair = response.json()
    ca = x509.load_pem_x509_certificate(pair["ca_certificate_pem"].encode())
    holder = check_certificate(x509.load_pem_x509_certificate(pair["certificate_pem"].encode()), ca)
    assert holder.subject == Subject("site", "site_a", "fed_x")
    assert holder.keyid == pair["keyid"]
    assert timedelta(days=89) < holder.not_after - holder.not_before < timedelta(days=91)
    assert (await http.get("/v1/authority")).json()["certificate_pem"] == pair["ca_certificate_pem"]


async def test_the_same_token_and_key_give_the_same_certificate(site_token, party, clock) -> None:
    first = await party.enrol(site_token)
    clock.ahead = timedelta(days=2)  # the token has expired meanwhile; the answer had been lost
    again = await party.enrol(site_token)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()


async def test_another_key_cannot_use_a_used_token(site_token, party, stranger) -> None:
    await party.enrol(site_token)
    refused = await stranger.enrol(site_token)
    assert slug(refused) == (409, "token-used")
    told = reason_of(refused.content, refused.status_code)
    assert told.startswith("this enrolment token was used with another key; ask the operator for a new one: ")
    assert "undersong site re-enroll site" in told
    assert told.count("another key") == 1, "what an agent is told says it once"


@pytest.mark.both_databases
async def test_in_parallel_one_key_wins(http, site_token, party) -> None:
    others = [type(party)(http) for _ in range(12)]
    answers = await asyncio.gather(*(each.enrol(site_token) for each in others))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [201] + [409] * 11


async def test_in_parallel_one_key_gets_one_certificate(site_token, party) -> None:
    answers = await asyncio.gather(*(party.enrol(site_token) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [201]
    assert len({answer.json()["keyid"] for answer in answers}) == 1


async def test_an_unknown_token_is_refused(party) -> None:
    assert slug(await party.enrol("use_unknown")) == (404, "token-unknown")


async def test_an_expired_token_is_refused(site_token, party, clock) -> None:
    clock.ahead = timedelta(days=2)
    assert slug(await party.enrol(site_token)) == (410, "token-expired")


async def test_a_challenge_cannot_be_used_twice(site_token, party) -> None:
    challenge = await party.challenge()
    assert (await party.enrol(site_token, challenge)).status_code == 201
    assert slug(await party.enrol(site_token, challenge)) == (404, "challenge-unknown")


async def test_a_challenge_ends(site_token, party, clock) -> None:
    challenge = await party.challenge()
    clock.ahead = timedelta(minutes=6)
    assert slug(await party.enrol(site_token, challenge)) == (404, "challenge-unknown")


async def test_anothers_challenge_is_refused(site_token, party, stranger) -> None:
    assert slug(await party.enrol(site_token, await stranger.challenge())) == (404, "challenge-unknown")


async def test_a_wrong_proof_spends_nothing(site_token, party) -> None:
    assert slug(await party.enrol(site_token, proof="00" * 64)) == (403, "proof-invalid")
    assert (await party.enrol(site_token)).status_code == 201


async def test_a_proof_made_for_another_token_is_refused(http, operator, site_token, party) -> None:
    body = {"kind": "service", "name": "coordinator"}
    other = (await http.post("/v1/enrolment-tokens", json=body, headers=operator)).json()["token"]
    challenge = await party.challenge()
    assert slug(await party.enrol(site_token, challenge, token=other)) == (403, "proof-invalid")


async def test_a_key_names_one_party_only(http, operator, site_token, party) -> None:
    await party.enrol(site_token)
    body = {"kind": "site", "name": "site_b", "federation_id": "fed_x"}
    other = (await http.post("/v1/enrolment-tokens", json=body, headers=operator)).json()["token"]
    assert slug(await party.enrol(other)) == (409, "key-in-use")


async def test_a_second_token_for_the_same_party_and_key_gives_the_same_certificate(
    http, operator, site_token, party
) -> None:
    first = await party.enrol(site_token)
    body = {"kind": "site", "name": "site_a", "federation_id": "fed_x"}
    other = (await http.post("/v1/enrolment-tokens", json=body, headers=operator)).json()["token"]
    assert (await party.enrol(other)).json() == first.json()


async def test_tokens_are_made_by_operators_only(http, operator) -> None:
    body = {"kind": "site", "name": "s", "federation_id": "f"}
    assert slug(await http.post("/v1/enrolment-tokens", json=body)) == (401, "unauthenticated")
    wrong = {"authorization": "Bearer ust_wrong"}
    assert slug(await http.post("/v1/enrolment-tokens", json=body, headers=wrong)) == (401, "token-refused")


async def test_malformed_token_requests(http, operator) -> None:
    wrong = [
        {"kind": "person"},
        {"name": "a/b"},
        {"name": ""},
        {"federation_id": None},
        {"kind": "service"},
        {"expires_in_s": 1},
        {"expires_in_s": 10**9},
        {"more": 1},
    ]
    for changed in wrong:
        body = {"kind": "site", "name": "s", "federation_id": "f"} | changed
        response = await http.post("/v1/enrolment-tokens", json=body, headers=operator)
        assert slug(response) == (422, "request-invalid"), changed


async def test_one_idempotency_key_makes_one_token(http, operator) -> None:
    body = {"kind": "site", "name": "s", "federation_id": "f"}
    headers = operator | {"idempotency-key": "k1"}
    answers = await asyncio.gather(*(http.post("/v1/enrolment-tokens", json=body, headers=headers) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    other = await http.post("/v1/enrolment-tokens", json=body | {"name": "t"}, headers=headers)
    assert slug(other) == (409, "token-request-differs")
    fresh = await http.post("/v1/enrolment-tokens", json=body, headers=operator | {"idempotency-key": "k2"})
    assert fresh.json()["token"] != answers[0].json()["token"]


async def test_no_token_and_no_private_key_is_in_the_database(
    database: Database, components, http, operator, site_token, party
) -> None:
    headers = operator | {"idempotency-key": "k1"}
    body = {"kind": "site", "name": "s", "federation_id": "f"}
    second = (await http.post("/v1/enrolment-tokens", json=body, headers=headers)).json()["token"]
    await party.enrol(site_token)
    secrets = [site_token, second, operator["authorization"].removeprefix("Bearer ")]
    async with database.engine.connect() as connection:
        for table in _tables():
            for row in await connection.execute(text(f"SELECT * FROM {table}")):
                for value in row:
                    shown = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
                    assert not any(secret.encode() in shown for secret in secrets), table
                    assert components.authority.ca.private_bytes() not in shown
                    assert components.authority.ca.private_bytes().hex().encode() not in shown


def _tables() -> list[str]:
    from undersong.services.keys.tables import Base

    return sorted(Base.metadata.tables)


async def test_expired_challenges_are_swept(components, clock, party, database: Database) -> None:
    await party.challenge()
    clock.ahead = timedelta(hours=1)
    await components.enrolments.prune_challenges()
    async with database.engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM challenges")) == 0
