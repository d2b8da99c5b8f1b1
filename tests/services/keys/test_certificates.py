"""Rotation without downtime, revocation that reaches descendants, a feed that misses nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from undersong.shared.identity.authority import Identity, Subject
from undersong.shared.identity.directory import CertificateDirectory
from undersong.shared.identity.enrol import EnrolmentRefused, IdentityKeeper, enrol, ensure_identity, rotate
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.identity.verify import RevocationFeed

URL = "http://keys"
REASON = {"reason": "laptop stolen"}


@pytest.fixture
async def identity(http, site_token, tmp_path: Path) -> Identity:
    token_file = tmp_path / "token"
    token_file.write_text(site_token + "\n")
    return await ensure_identity(http, URL, tmp_path / "site", token_file)


async def test_the_client_enrols_and_saves(http, identity, tmp_path: Path) -> None:
    assert identity.subject == Subject("site", "site_a", "fed_x")
    again = await ensure_identity(http, URL, tmp_path / "site", None)
    assert again.keyid == identity.keyid
    assert not (tmp_path / "site" / "pending.key").exists()


async def test_a_lost_answer_costs_only_a_repetition(http, site_token, tmp_path: Path) -> None:
    """The first enrolment is cut off after the server has done it; the pending key makes the second one the same."""

    class LoseAnswer(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await http._transport.handle_async_request(request)
            if request.url.path == "/v1/enrolments":
                await response.aread()
                raise httpx.ReadError("lost")
            return response

    token_file = tmp_path / "token"
    token_file.write_text(site_token)
    async with httpx.AsyncClient(transport=LoseAnswer()) as unlucky:
        with pytest.raises(EnrolmentRefused):
            await ensure_identity(unlucky, URL, tmp_path / "site", token_file, patience_s=0)
    assert (await ensure_identity(http, URL, tmp_path / "site", token_file)).subject.name == "site_a"


async def test_two_processes_of_one_party_get_one_identity(http, site_token, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(site_token)
    both = await asyncio.gather(*(ensure_identity(http, URL, tmp_path / "site", token_file) for _ in range(2)))
    assert both[0].keyid == both[1].keyid


async def test_a_refusal_says_why(http, tmp_path: Path, identity) -> None:
    with pytest.raises(EnrolmentRefused, match="not known"):
        await enrol(http, URL, "use_wrong", identity.private_key)


async def test_rotation_keeps_the_old_certificate_valid(http, identity, tmp_path: Path) -> None:
    rotated = await rotate(http, URL, identity, tmp_path / "site")
    assert rotated.keyid != identity.keyid
    assert rotated.subject == identity.subject
    assert Identity.load(tmp_path / "site").keyid == rotated.keyid
    for each in (identity, rotated):
        answer = await http.get(f"{URL}/v1/certificates?name=site_a", auth=SigningAuth(each, "keys"))
        assert answer.status_code == 200
        assert {item["keyid"] for item in answer.json()["items"]} == {identity.keyid, rotated.keyid}
    view = (await http.get(f"/v1/certificates/{rotated.keyid}")).json()
    assert view["replaces"] == identity.keyid


async def test_rotation_may_be_repeated_after_a_crash(http, identity, tmp_path: Path) -> None:
    """Crash after the answer, before it was saved: the pending key is still there and gets the same certificate."""
    folder = tmp_path / "site"
    rotated = await rotate(http, URL, identity, folder)
    (folder / "pending.key").write_text(rotated.private_key.private_bytes_raw().hex())
    identity.save(folder)
    assert (await rotate(http, URL, identity, folder)).keyid == rotated.keyid


async def test_the_keeper_rotates_in_time(http, identity, tmp_path: Path, clock) -> None:
    seen: list[Identity] = []
    keeper = IdentityKeeper(identity, tmp_path / "site", http, URL, clock=clock, changed=seen.append)
    assert not await keeper.check()
    assert keeper() is identity
    clock.ahead = timedelta(days=61)
    with pytest.raises(EnrolmentRefused, match="clock"):  # signed by the true clock, checked by the moved one
        await keeper.check()
    clock.ahead = timedelta(0)
    keeper._clock = lambda: clock() + timedelta(days=61)
    assert await keeper.check()
    assert keeper().keyid == seen[-1].keyid != identity.keyid


@pytest.fixture
def fresh_token(http, operator) -> Callable[..., Awaitable[str]]:
    async def make(name: str = "site_a") -> str:
        body = {"kind": "site", "name": name, "federation_id": "fed_x"}
        answer = await http.post("/v1/enrolment-tokens", json=body, headers=operator)
        return str(answer.json()["token"])

    return make


async def revoke(http, operator, keyid: str) -> None:
    await http.post(f"/v1/certificates/{keyid}/revocations", json=REASON, headers=operator)


async def test_a_new_token_enrols_the_same_party_again(http, identity, fresh_token, operator, tmp_path: Path) -> None:
    """At a start and in a running process; with the old certificate revoked, and a rotation cut off half-way."""
    folder, file = tmp_path / "site", tmp_path / "token"
    assert (await ensure_identity(http, URL, folder, file)).keyid == identity.keyid, "the same token changes nothing"
    (folder / "pending.key").write_text("11" * 32)
    await revoke(http, operator, identity.keyid)
    file.write_text(await fresh_token())
    second = await ensure_identity(http, URL, folder, file)
    assert (second.subject, second.keyid != identity.keyid) == (identity.subject, True)
    keeper = IdentityKeeper(second, folder, http, URL, token_file=file)
    assert not await keeper.check()
    await revoke(http, operator, second.keyid)
    file.write_text(await fresh_token())
    assert await keeper.check()
    assert keeper().keyid == Identity.load(folder).keyid not in (identity.keyid, second.keyid)
    assert keeper().subject == identity.subject
    assert not [path.name for path in folder.iterdir() if "again" in path.name or "pending" in path.name]


async def test_a_token_that_is_no_good_changes_nothing(http, identity, fresh_token, tmp_path: Path) -> None:
    """Another party's, or an invented one; and the next good one still counts."""
    folder, file = tmp_path / "site", tmp_path / "token"
    for token in (await fresh_token("site_b"), "use_made-up"):
        file.write_text(token)
        assert (await ensure_identity(http, URL, folder, file)).keyid == identity.keyid
        assert Identity.load(folder).keyid == identity.keyid
    file.write_text(await fresh_token())
    assert (await ensure_identity(http, URL, folder, file)).keyid != identity.keyid


async def test_enrolling_again_outlives_lost_answers(http, identity, fresh_token, tmp_path: Path) -> None:
    """The keys service does it, the answer is lost, and the next attempt gets the same certificate."""
    folder, file = tmp_path / "site", tmp_path / "token"
    file.write_text(await fresh_token())

    class LoseAnswer(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await http._transport.handle_async_request(request)
            await response.aread()
            if request.url.path == "/v1/enrolments":
                raise httpx.ReadError("lost")
            return response

    async with httpx.AsyncClient(transport=LoseAnswer()) as unlucky:
        assert (await ensure_identity(unlucky, URL, folder, file)).keyid == identity.keyid
    again = await ensure_identity(http, URL, folder, file)
    assert again.keyid != identity.keyid
    listed = (await http.get(f"{URL}/v1/certificates?name=site_a", auth=SigningAuth(again, "keys"))).json()["items"]
    assert {item["keyid"] for item in listed} == {identity.keyid, again.keyid}


async def test_an_unsigned_rotation_is_refused(http) -> None:
    response = await http.post("/v1/certificates/rotations", json={"public_key": "00" * 32, "proof": "00" * 64})
    assert response.status_code == 401


async def test_a_rotation_needs_the_new_keys_proof(http, identity) -> None:
    body = {"public_key": "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "proof": "00" * 64}
    response = await http.post(f"{URL}/v1/certificates/rotations", json=body, auth=SigningAuth(identity, "keys"))
    assert response.json()["type"].endswith(":proof-invalid")


async def test_revocation_reaches_what_was_rotated_from_it(http, operator, identity, tmp_path: Path) -> None:
    rotated = await rotate(http, URL, identity, tmp_path / "site")
    response = await http.post(f"/v1/certificates/{identity.keyid}/revocations", json=REASON, headers=operator)
    assert response.status_code == 201
    assert response.json()["reason"] == "laptop stolen"
    feed = (await http.get("/v1/revocations")).json()
    assert [item["keyid"] for item in feed["items"]] == [identity.keyid, rotated.keyid]
    with pytest.raises(EnrolmentRefused, match="revoked"):
        await rotate(http, URL, rotated, tmp_path / "site")


async def test_revoking_twice_answers_the_same(http, operator, identity) -> None:
    url = f"/v1/certificates/{identity.keyid}/revocations"
    first = await http.post(url, json=REASON, headers=operator)
    second = await http.post(url, json={"reason": "another"}, headers=operator)
    assert first.json() == second.json()
    assert len((await http.get("/v1/revocations")).json()["items"]) == 1


async def test_revoking_an_unknown_certificate(http, operator) -> None:
    response = await http.post(f"/v1/certificates/{'0' * 64}/revocations", json=REASON, headers=operator)
    assert response.status_code == 404


async def test_only_operators_revoke(http, identity) -> None:
    url = f"{URL}/v1/certificates/{identity.keyid}/revocations"
    assert (await http.post(url, json=REASON)).status_code == 401
    assert (await http.post(url, json=REASON, auth=SigningAuth(identity, "keys"))).status_code == 401


async def test_a_revoked_key_cannot_come_back(http, operator, site_token, identity) -> None:
    await http.post(f"/v1/certificates/{identity.keyid}/revocations", json=REASON, headers=operator)
    with pytest.raises(EnrolmentRefused, match="revoked"):
        await enrol(http, URL, site_token, identity.private_key)


async def test_the_feed_is_followed(http, operator, identity) -> None:
    ages: list[float] = []
    feed = RevocationFeed(http, URL, report_age=ages.append)
    await feed.poll_softly()
    assert not feed.revoked(identity.keyid)
    await http.post(f"/v1/certificates/{identity.keyid}/revocations", json=REASON, headers=operator)
    await feed.poll_softly()
    assert feed.revoked(identity.keyid)
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(503))) as away:
        feed._http = away
        await feed.poll_softly()
    assert feed.revoked(identity.keyid)
    assert len(ages) == 3


async def test_the_feed_in_pages(http, operator, components, party) -> None:
    keyids = []
    for number in range(5):
        new = await components.enrolments.create_token(Subject("service", f"s{number}"), timedelta(days=1))
        keyids.append((await type(party)(http).enrol(new.token)).json()["keyid"])
    await asyncio.gather(
        *(http.post(f"/v1/certificates/{k}/revocations", json=REASON, headers=operator) for k in keyids)
    )
    seen, after = [], "0"
    while after is not None:
        page = (await http.get(f"/v1/revocations?limit=2&after={after}")).json()
        seen += [item["keyid"] for item in page["items"]]
        after = page["next"]
    assert sorted(seen) == sorted(keyids)


async def test_the_directory_believes_only_the_authority(http, identity, components) -> None:
    directory = CertificateDirectory(http, URL, identity.ca_certificate)
    assert (await directory.get(identity.keyid)).subject == identity.subject
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(500))) as away:
        directory._http = away
        assert (await directory.get(identity.keyid)).subject == identity.subject  # remembered


async def test_the_service_has_its_own_certificate(http, settings) -> None:
    own = Identity.load(settings.identity_dir)
    assert own.subject == Subject("service", "keys")
    view = (await http.get(f"/v1/certificates/{own.keyid}")).json()
    assert x509.load_pem_x509_certificate(view["certificate_pem"].encode()) == own.certificate


async def test_every_step_is_in_the_schema_with_its_problems(app) -> None:
    document = app.openapi()
    enrolled = document["paths"]["/v1/enrolments"]["post"]["responses"]
    assert {"201", "200", "403", "404", "409", "410", "422"} <= set(enrolled)
