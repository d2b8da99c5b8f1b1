"""The witness signs once: whatever is asked, how often, at once, after a crash, after a restore."""

import asyncio
import shutil
import sqlite3
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import httpx
import msgpack
import pytest
from sqlalchemy import text

from tests.databases import prepare
from tests.services.keys.parties import ROUND, SITES, URL, Attempt, Federation
from undersong.services.keys.settings import KeysSettings
from undersong.services.keys.wiring import Components, assemble, build_app, open_database
from undersong.shared.identity.highwater import HighWater, Mark
from undersong.shared.ids import new_id
from undersong.shared.secagg import transcript
from undersong.shared.secagg.pairwise import messages, roster

REASON = {"reason": "laptop stolen"}


@pytest.fixture
async def federation(http: httpx.AsyncClient, components: Components) -> Federation:
    return await Federation.enrolled(http, components)


def problem(response: httpx.Response) -> str:
    return str(response.json()["type"]).rpartition(":")[2]


@asynccontextmanager
async def running(settings: KeysSettings, identities=None):
    """The service from its start to its end, as often as a test likes."""
    app = build_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=URL) as http:
            if identities is None:
                database = open_database(settings)
                federation = await Federation.enrolled(http, await assemble(settings, database))
                await database.close()
            else:
                federation = Federation(http, identities)
            yield federation


async def test_a_commitment_is_the_same_again_and_opens_with_the_roster(federation: Federation) -> None:
    first, second = await federation.commit(), await federation.commit()
    assert first.json() == second.json() == {"commitment": first.json()["commitment"], "epoch": 0}
    attempt = await federation.begin()
    frozen = await attempt.freeze()
    assert roster.nonce_commitment(frozen.nonce).hex() == first.json()["commitment"]
    assert (await attempt.ask(attempt.survivors())).status_code == 200


async def test_only_the_right_service_asks(federation: Federation) -> None:
    assert (await federation.commit(who="aggregator")).status_code == 403
    assert (await federation.commit(who="site_0")).status_code == 403
    assert (await federation.http.post(f"/v1/rounds/{ROUND}/nonce-commitments")).status_code == 401
    attempt = await federation.begin()
    assert (await attempt.ask_roster(attempt.roster(), who="coordinator")).status_code == 403


async def test_the_same_question_gets_the_same_answer_another_none(federation: Federation) -> None:
    attempt = await federation.begin()
    bare = attempt.roster()
    first = await attempt.ask_roster(bare)
    assert (await attempt.ask_roster(bare)).content == first.content
    other = await attempt.ask_roster(attempt.roster())
    assert (other.status_code, problem(other)) == (409, "already-witnessed")
    nonce, signature = messages.unpack_list(first.content)
    attempt.frozen = replace(bare, nonce=nonce, signature=signature)
    signed = await attempt.ask(attempt.survivors())
    assert (await attempt.ask(attempt.survivors())).content == signed.content
    for other in (attempt.survivors(frozenset({0, 1, 2, 3})), attempt.survivors(root=bytes(32))):
        assert problem(await attempt.ask(other)) == "already-witnessed"


@pytest.mark.both_databases
async def test_fifty_different_questions_at_once_get_one_signature(federation: Federation) -> None:
    attempt = await federation.begin()
    await attempt.freeze()
    questions = [attempt.survivors(salt=i) for i in range(50)]
    answers = await asyncio.gather(*(attempt.ask(question) for question in questions))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 49
    rosters = await federation.begin(new_id("rnd"), attempt=2)
    answers = await asyncio.gather(*(rosters.ask_roster(rosters.roster()) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 19


async def test_a_survivor_that_signed_no_upload_is_signed_for_by_nobody(federation: Federation) -> None:
    """The aggregator must show, for each survivor, that it signed the body in its place under the same sharers."""
    attempt = await federation.begin()
    await attempt.freeze()
    good, other = attempt.survivors(), attempt.survivors(salt=1)
    uploads = list(good["uploads"])
    invented = attempt.body(2) + bytes(64)
    shown_other_sharers = attempt.body(2) + attempt.signature(2, transcript.bitmap(frozenset({0, 1, 2, 4}), 5))
    for bent, reason in (
        ({"uploads": [*uploads[:2], invented, uploads[3]]}, "the update of site_2"),
        ({"uploads": [*uploads[:2], uploads[1], uploads[3]]}, "the update of site_2"),
        ({"uploads": [*uploads[:2], shown_other_sharers, uploads[3]]}, "the update of site_2"),
        ({"uploads": uploads[:3]}, "3 uploads are shown for 4"),
        ({"uploads": other["uploads"]}, "the root is not"),
        ({"members": transcript.bitmap(frozenset(range(5)), 5)}, "4 uploads are shown for 5"),
    ):
        refused = await attempt.ask(good | bent)
        assert (refused.status_code, problem(refused)) == (403, "witness-refused"), reason
        assert reason in refused.json()["detail"]
    for shape in ([], [b""], ["x" * 96], None):
        assert (await attempt.ask(good | {"uploads": shape})).status_code in (403, 422)
    assert (await attempt.ask(good)).status_code == 200


async def test_one_attempt_under_two_round_ids_is_signed_once(federation: Federation) -> None:
    first, second = await federation.begin(), await federation.begin(new_id("rnd"))
    await first.freeze()
    assert problem(await second.ask_roster(second.roster())) == "already-witnessed"


async def test_a_bent_roster_is_refused(federation: Federation) -> None:
    attempt = await federation.begin()
    good = attempt.roster().members
    stranger = replace(good[0], identity=good[1].identity)
    for members, reason in (
        (good[:2], "minimum"),
        ((*good[:4], good[3]), "twice"),
        (good[::-1], "sorted"),
        ((stranger, *good[1:]), "no valid certificate"),
        ((replace(good[0], advertisement=good[1].advertisement), *good[1:]), "valid signature"),
    ):
        refused = await attempt.ask_roster(replace(attempt.roster(), members=members))
        assert (refused.status_code, problem(refused)) == (403, "witness-refused")
        assert reason in refused.json()["detail"]
    await attempt.freeze()


async def test_a_revoked_site_is_in_no_roster(federation: Federation, operator) -> None:
    attempt = await federation.begin()
    keyid = federation.identities[SITES[2]].keyid
    await federation.http.post(f"/v1/certificates/{keyid}/revocations", json=REASON, headers=operator)
    refused = await attempt.ask_roster(attempt.roster())
    assert (problem(refused), "site_2 has no valid certificate" in refused.json()["detail"]) == (
        "witness-refused",
        True,
    )
    without = tuple(name for name in SITES if name != SITES[2])
    assert (await attempt.ask_roster(attempt.roster(without))).status_code == 200


async def test_a_revoked_service_asks_nothing(federation: Federation, operator) -> None:
    attempt = await federation.begin()
    for name in ("aggregator", "coordinator"):
        keyid = federation.identities[name].keyid
        await federation.http.post(f"/v1/certificates/{keyid}/revocations", json=REASON, headers=operator)
    assert problem(await attempt.ask_roster(attempt.roster())) == "certificate-revoked"
    assert problem(await federation.commit(new_id("rnd"))) == "certificate-revoked"


async def test_the_manifest_must_be_the_coordinators(federation: Federation) -> None:
    attempt = await federation.begin()
    good = attempt.signed
    forged = good.model_copy(update={"signature": "00" * 64})
    unknown = good.model_copy(update={"keyid": "0" * 64})
    for bad in (forged, unknown, federation.signed(good.manifest, who="aggregator")):
        attempt.signed = bad
        assert problem(await attempt.ask_roster(attempt.roster())) == "manifest-untrusted"
    for changes in ({"round_id": new_id("rnd")}, {"engine": "sealed"}):
        attempt.signed = federation.signed(good.manifest.model_copy(update=changes))
        response = await federation.http.post(
            f"{URL}/v1/rounds/{good.manifest.round_id}/witness",
            content=question_of(attempt),
            headers={"content-type": "application/octet-stream"},
            auth=federation.auth("aggregator"),
        )
        assert problem(response) == "witness-refused"


def question_of(attempt: Attempt) -> bytes:
    ask = msgpack.packb({"what": "roster", "roster": attempt.roster().pack()})
    return bytes(msgpack.packb({"manifest": attempt.signed.model_dump_json().encode(), "ask": ask}))


async def test_another_nonce_or_none_is_refused(federation: Federation) -> None:
    attempt = await federation.begin()
    attempt.signed = federation.manifest(ROUND, {"commitment": "ab" * 32, "epoch": 0})
    refused = await attempt.ask_roster(attempt.roster())
    assert "commitment" in refused.json()["detail"]
    attempt.signed = federation.manifest(new_id("rnd"), {"commitment": "ab" * 32, "epoch": 0})
    assert problem(await attempt.ask_roster(attempt.roster())) == "nonce-unknown"


async def test_survivors_need_the_signed_roster_its_manifest_and_enough_sites(federation: Federation) -> None:
    attempt = await federation.begin()
    assert problem(await attempt.ask(attempt.survivors())) == "witness-refused"
    await attempt.freeze()
    refused = await attempt.ask(attempt.survivors(frozenset({0, 1})))
    assert "fewer than" in refused.json()["detail"]
    outside = attempt.survivors() | {"sharers": b"\x07"}
    assert "not among the sharers" in (await attempt.ask(outside)).json()["detail"]
    signed = attempt.signed
    params = {**signed.manifest.engine_params, "quorum": False}
    attempt.signed = federation.signed(signed.manifest.model_copy(update={"engine_params": params}))
    assert problem(await attempt.ask(attempt.survivors())) == "already-witnessed"


@pytest.mark.parametrize("body", [b"", b"\x80", b"\xc1", b"\x82\xa8manifest\xc4\x00\xa3ask\xc4\x00", b"\x91" * 2000])
async def test_garbage_is_a_named_refusal(federation: Federation, body: bytes) -> None:
    response = await federation.http.post(
        f"{URL}/v1/rounds/{ROUND}/witness",
        content=body,
        headers={"content-type": "application/octet-stream"},
        auth=federation.auth("aggregator"),
    )
    assert response.status_code in (411, 422), response.text


@pytest.mark.both_databases
async def test_a_crash_between_commit_and_answer_answers_the_same(
    settings: KeysSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(settings) as federation:
        attempt = await federation.begin()
        await attempt.freeze()

        async def die(self: HighWater, mark: Mark) -> None:
            raise RuntimeError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(HighWater, "reach", die)
            assert (await attempt.ask(attempt.survivors())).status_code == 500
    async with running(settings, federation.identities) as again:
        attempt.federation = again
        assert (await again.commit()).json()["epoch"] == 0, "a crash is no restore"
        other = await attempt.ask(attempt.survivors(root=bytes(32)))
        assert problem(other) == "already-witnessed"
        first = await attempt.ask(attempt.survivors())
        assert first.status_code == 200
        assert (await attempt.ask(attempt.survivors())).content == first.content


async def test_an_older_copy_of_the_database_is_noticed_and_voids_open_rounds(sqlite_url: str, tmp_path: Path) -> None:
    prepare(sqlite_url, "keys")
    settings = KeysSettings(database_url=sqlite_url, data_dir=tmp_path / "data")
    file, copy = tmp_path / "test.sqlite", tmp_path / "copy.sqlite"
    async with running(settings) as federation:
        attempt = await federation.begin()
        await attempt.freeze()
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        assert (await attempt.ask(attempt.survivors())).status_code == 200
    for part in ("test.sqlite-wal", "test.sqlite-shm"):
        (tmp_path / part).unlink(missing_ok=True)
    shutil.copy(copy, file)
    async with running(settings, federation.identities) as again:
        attempt.federation = again
        other = await attempt.ask(attempt.survivors(frozenset({0, 1, 2, 3})))
        assert (other.status_code, problem(other)) == (410, "round-voided")
        assert problem(await again.commit()) == "round-voided"
        fresh = await again.begin(new_id("rnd"), attempt=2)
        assert fresh.signed.manifest.epoch == 1
        await fresh.freeze()
        assert (await again.http.get("/v1/witness")).json()["epoch"] == 1
        head = (await again.http.get("/v1/log/head")).json()
        url = f"{URL}/v1/log/entries?start=0&end={head['size']}"
        entries = (await again.http.get(url, auth=again.auth("site_0"))).json()["items"]
        assert [entry["document"]["epoch"] for entry in entries if entry["type"] == "restored"] == [1]


async def test_a_restore_under_the_running_service_is_noticed(federation: Federation, database) -> None:
    attempt = await federation.begin()
    await attempt.freeze()

    async def go_back(tx) -> None:
        await tx.session.execute(text("UPDATE rounds_witnessed SET roster_ask = NULL, roster_reply = NULL"))
        await tx.session.execute(text("UPDATE witness_state SET counter = counter - 1"))

    await database.run("test.restore", go_back)
    assert problem(await attempt.ask_roster(attempt.roster())) == "round-voided"
    assert (await federation.commit(new_id("rnd"))).json()["epoch"] == 1


async def test_a_lost_file_is_a_new_epoch_and_a_first_start_is_not(
    federation: Federation, settings: KeysSettings
) -> None:
    await federation.begin()
    settings.high_water.unlink()
    epoch = (await federation.commit(new_id("rnd"))).json()["epoch"]
    assert epoch > 10**9, "counted from the clock, so above every epoch that there was"
    assert HighWater(settings.high_water).read().epoch == epoch


async def test_the_file_only_rises(tmp_path: Path) -> None:
    file = tmp_path / "high-water"
    one, two = HighWater(file), HighWater(file)
    assert one.read() is None
    await asyncio.gather(*(water.reach(Mark(0, i, 3)) for i in range(20) for water in (one, two)))
    assert one.read() == Mark(0, 19, 3)
    await two.reach(Mark(1, 2, 0))
    await one.reach(Mark(0, 50, 50))
    assert two.read() == Mark(1, 2, 0)
    assert Mark(0, 9, 9).behind(Mark(1, 0, 0))
    assert not Mark(1, 0, 0).behind(Mark(0, 9, 9))
    assert Mark(1, 5, 2).behind(Mark(1, 5, 3))
    assert not Mark(0, 0, 9).behind(None)
    assert Mark(0, 1, 0).behind(None)
    file.write_text('{"what": 1}')
    with pytest.raises(ValueError, match="high-water"):
        one.read()


async def test_rounds_end_with_a_change_of_the_witnesss_key(federation: Federation, app, tmp_path: Path) -> None:
    await federation.begin()
    app.state.witness.identity = federation.identities["site_0"]
    assert "changed its key" in (await federation.commit()).json()["detail"]


async def test_no_nonce_lies_open_in_the_database(federation: Federation, database) -> None:
    attempt = await federation.begin()

    async def look(tx):
        return (await tx.session.execute(text("SELECT nonce FROM rounds_witnessed"))).scalar_one()

    sealed = bytes(await database.read("test.look", look))
    nonce = (await attempt.freeze()).nonce
    assert nonce not in sealed
    assert await database.read("test.look", look) is None
