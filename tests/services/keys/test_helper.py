"""The helper judges each report once, signs one set, and gives one share: whatever the leader asks beside that."""

import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256 as digest
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import update

from tests.services.aggregator.conftest import Stage, make_identity, quick_stage
from tests.services.aggregator.two_servers import LENGTH, Round, Servers
from undersong.services.keys.helper.domain import (
    EngineWithoutHelper,
    ManifestUntrusted,
    RoundAnswered,
    RoundDiffers,
    RoundUnknown,
    RoundVoided,
    SetAgreed,
    SetDiffers,
    SetMissing,
    SetUnfit,
)
from undersong.services.keys.helper.repository.rounds import HelperRepository
from undersong.services.keys.helper.tables import Base, ReportRow, RoundRow
from undersong.services.keys.helper.wiring import PACKAGE, void_rounds
from undersong.services.keys.openings import Openings, RecordedOpening
from undersong.shared.clock import utc_now
from undersong.shared.database import Transaction
from undersong.shared.database.migrations import drift
from undersong.shared.identity.highwater import HighWater
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.identity.sealing import add_key
from undersong.shared.ids import RoundId, SiteId, new_id
from undersong.shared.secagg.engine import ServerRound
from undersong.shared.secagg.fold import BytesSource
from undersong.shared.secagg.twoserver.engine import TWOSERVER, accepted_set
from undersong.shared.secagg.twoserver.leader import examine, leader_key
from undersong.shared.secagg.twoserver.messages import Begin, ReportQuestion, ReportVerdict
from undersong.shared.wire.manifest import RoundKind, RoundManifest, SignedManifest
from undersong.shared.wire.privacy import CorrelatedNoise, PrivacyModel, PrivacyTerms, PrivacyUnit
from undersong.shared.wire.updates import read_header

__all__ = ["make_identity", "quick_stage"]


class Leader:
    """A leader without a service around it: it may ask what it likes."""

    def __init__(self, servers: Servers, manifest: RoundManifest) -> None:
        self.servers, self.manifest = servers, manifest
        self.opened = TWOSERVER.server.open(manifest, derive=lambda label: digest(label).digest())
        self.round: Round

    @property
    def signed(self) -> SignedManifest:
        who = self.servers.stage.coordinator
        signature = who.private_key.sign(self.manifest.statement()).hex()
        return SignedManifest(manifest=self.manifest, keyid=who.keyid, signature=signature)

    async def begin(self) -> "Leader":
        assert self.opened.asks
        begin = Begin(self.signed.model_dump_json().encode(), self.opened.asks.asks[0].body)
        begun = await self.servers.rounds.begin(self.manifest.round_id, begin)
        self.opened = TWOSERVER.server.begun(
            ServerRound(self.manifest, self.opened.secret), self.opened, {0: begun.pack()}
        )
        self.round = Round(self.servers, self.manifest, {"engine_public": {"document": {"public": self.opened.public}}})
        return self

    def question(self, site: str, scale: float = 1.0) -> ReportQuestion:
        body = self.round.body(site, np.full(LENGTH, scale / LENGTH))
        return self.ask_about(body)

    def ask_about(self, body: bytes) -> ReportQuestion:
        header, offset = read_header(body)
        server_round = ServerRound(self.manifest, self.opened.secret)
        return examine(server_round, header, BytesSource(body, offset), bytes(range(32))).question

    async def ask(self, *questions: ReportQuestion) -> list[ReportVerdict]:
        return await self.servers.rounds.verify(self.manifest.round_id, list(questions))

    def members(self, *sites: str) -> Any:
        return accepted_set(self.manifest, {SiteId(site): bytes(range(32)) for site in sites})

    async def agree(self, *sites: str) -> Any:
        return await self.servers.rounds.agree(self.manifest.round_id, self.members(*sites))

    async def share(self) -> bytes:
        return await self.servers.rounds.share(self.manifest.round_id, leader_key(self.opened.secret))


@pytest.fixture
async def servers(quick_stage: Stage, tmp_path: Path) -> AsyncIterator[Servers]:
    made = Servers(quick_stage, tmp_path / "helper")
    yield made
    await made.close()


THREE = ("site_00", "site_01", "site_02")


async def judged(servers: Servers, *sites: str, **changes: Any) -> Leader:
    leader = await Leader(servers, servers.manifest(sites=4, **changes)).begin()
    verdicts = await leader.ask(*(leader.question(site) for site in sites))
    assert all(verdict.message is not None for verdict in verdicts)
    return leader


async def test_the_same_question_gets_the_same_answer_after_a_restart(servers: Servers) -> None:
    leader = await Leader(servers, servers.manifest(sites=4)).begin()
    questions = [leader.question(site) for site in THREE]
    first = await leader.ask(*questions)
    agreed = await leader.agree(*THREE)
    share = await leader.share()
    servers.restart_helper()
    assert await leader.ask(*questions) == first
    assert await leader.agree(*THREE) == agreed
    assert len(await leader.share()) == len(share)
    begun = [await Leader(servers, leader.manifest).begin() for _ in range(2)]
    assert {one.opened.public["helper_key"] for one in begun} == {leader.opened.public["helper_key"]}


async def test_a_report_is_verified_once(servers: Servers) -> None:
    """Neither with another verifier share, nor another body, nor in the name of another site, nor in another round."""
    leader = await Leader(servers, servers.manifest(sites=4, number=1)).begin()
    question = leader.question("site_00")
    assert (await leader.ask(question))[0].message is not None
    other_share = replace(question, verifier_share=bytes(len(question.verifier_share)))
    for again in (other_share, replace(question, body_digest=bytes(32)), leader.question("site_00")):
        assert (await leader.ask(again))[0].code == "report-repeated"
    moved = replace(question, report=replace(question.report, site_id=SiteId("site_01")))
    assert (await leader.ask(moved))[0].code == "report-repeated"
    elsewhere = await Leader(servers, servers.manifest(sites=4, number=2)).begin()
    assert (await elsewhere.ask(question))[0].code == "report-repeated"
    fresh = replace(question, report=replace(question.report, report_id=bytes(16)))
    assert (await elsewhere.ask(fresh))[0].code == "report-unsigned", "the signature covers id and manifest"


async def test_a_refused_report_stays_refused(servers: Servers) -> None:
    leader = await Leader(servers, servers.manifest(sites=4)).begin()
    question = leader.question("site_00")
    wrong = replace(question, verifier_share=bytes(len(question.verifier_share)))
    assert (await leader.ask(wrong))[0].code == "vdaf-rejected"
    assert (await leader.ask(question))[0].code == "report-repeated"
    with pytest.raises(SetUnfit):
        await leader.agree("site_00")


async def test_one_set_is_signed_and_no_report_is_taken_after_it(servers: Servers) -> None:
    leader = await judged(servers, *THREE, min_cohort=2)
    with pytest.raises(SetMissing):
        await leader.share()
    with pytest.raises(SetUnfit, match="minimum cohort"):
        await leader.agree("site_00")
    with pytest.raises(SetUnfit, match="site_03"):
        await leader.agree("site_00", "site_03")
    await leader.agree("site_00", "site_01")
    with pytest.raises(SetDiffers):
        await leader.agree(*THREE)
    with pytest.raises(SetAgreed):
        await leader.ask(leader.question("site_03"))


async def test_one_attempt_at_a_round_of_a_job_is_opened(servers: Servers) -> None:
    """A second sum of nearly the same updates would differ from the first by single sites."""
    first = await judged(servers, *THREE, number=5, attempt=1)
    second = await judged(servers, *THREE, number=5, attempt=2)
    await first.agree(*THREE)
    with pytest.raises(RoundAnswered):
        await second.agree(*THREE)


def turn(row: int, number: int) -> dict[str, Any]:
    """Changes of a manifest to a round that gets a row of noise."""
    terms = PrivacyTerms(
        model=PrivacyModel.SERVER, unit=PrivacyUnit.SITE, noise_multiplier=0.5, delta=1e-6, epsilon=10, rounds=8,
        min_sites=2, correlated=CorrelatedNoise(separation=4, participations=2),
    )  # fmt: skip
    return {"privacy": terms, "noise_row": row, "number": number}


async def test_a_row_of_noise_is_given_to_one_sum_in_ascending_order(servers: Servers) -> None:
    """Whatever the round's number, and whatever database is put back: rows that repeat would take noise away."""
    first = await judged(servers, *THREE, **turn(3, 5))
    again = await judged(servers, *THREE, **turn(3, 6))
    earlier = await judged(servers, *THREE, **turn(2, 7))
    agreed = await first.agree(*THREE)
    assert await first.agree(*THREE) == agreed, "the same question"
    for other in (again, earlier):
        with pytest.raises(RoundAnswered):
            await other.agree(*THREE)
    copy = await copied(servers)
    fourth = await judged(servers, *THREE, **turn(4, 8))
    await fourth.agree(*THREE)
    await put_back(servers, copy)
    forgotten = await judged(servers, *THREE, **turn(4, 9))
    with pytest.raises(RoundAnswered):
        await forgotten.agree("site_00", "site_01")
    following = await judged(servers, *THREE, **turn(5, 9))
    await following.agree(*THREE)
    assert [(each.kind, each.number) for each in Openings(servers.settings.openings).read()] == [
        ("train", 5), ("noise-row", 3), ("train", 8), ("noise-row", 4), ("train", 9), ("noise-row", 5),
    ]  # fmt: skip


async def test_a_jobs_noise_follows_from_the_helpers_secret(servers: Servers) -> None:
    """The same in every round of a job, another one in each job, and gone with the key file."""

    async def key_of(job: str, number: int) -> bytes:
        leader = await Leader(servers, servers.manifest(sites=4, job_id=job, **turn(number, number))).begin()
        round_id = leader.manifest.round_id
        found = await servers.database.read("test.round", lambda tx: HelperRepository(tx).get(round_id))
        return servers.rounds._keys(found, found.keys or b"").noise_key

    first = await key_of("job_a", 1)
    assert await key_of("job_a", 2) == first
    assert await key_of("job_b", 3) != first
    add_key(servers.settings.seal_key)
    assert await key_of("job_a", 4) != first


async def test_the_root_is_that_of_the_bodies_that_were_verified(servers: Servers) -> None:
    leader = await judged(servers, *THREE)
    wrong = replace(leader.members(*THREE), root=bytes(32))
    with pytest.raises(SetUnfit, match="root"):
        await servers.rounds.agree(leader.manifest.round_id, wrong)


async def test_only_what_the_coordinator_ordered_is_begun(servers: Servers) -> None:
    leader = Leader(servers, servers.manifest(sites=4))
    forged = leader.signed.model_copy(update={"signature": "00" * 64})
    with pytest.raises(ManifestUntrusted):
        await servers.rounds.begin(leader.manifest.round_id, Begin(forged.model_dump_json().encode(), bytes(32)))
    other = RoundId(new_id("rnd"))
    with pytest.raises(RoundDiffers):
        await servers.rounds.begin(other, Begin(leader.signed.model_dump_json().encode(), bytes(32)))
    sealed = Leader(servers, servers.stage.manifest(RoundKind.STATISTICS))
    body = Begin(sealed.signed.model_dump_json().encode(), bytes(32))
    with pytest.raises(EngineWithoutHelper):
        await servers.rounds.begin(sealed.manifest.round_id, body)
    await leader.begin()
    changed = Leader(servers, leader.manifest.model_copy(update={"seed": 99}))
    with pytest.raises(RoundDiffers):
        await changed.begin()
    with pytest.raises(RoundUnknown):
        await servers.rounds.share(RoundId(new_id("rnd")), bytes(32))


@pytest.mark.parametrize("end", ["expired", "restored"])
async def test_secrets_end_with_the_round_and_with_a_restore(servers: Servers, end: str) -> None:
    leader = await judged(servers, *THREE)

    async def work(tx: Transaction) -> None:
        await tx.session.execute(update(RoundRow).values(expires_at=utc_now() - timedelta(seconds=1)))

    if end == "expired":
        await servers.database.run("test.expire", work)
        await servers.rounds.sweep()
    else:
        assert await void_rounds(servers.settings) == 1
        assert await void_rounds(servers.settings) == 0
    async with servers.database.engine.connect() as db:
        assert (await db.execute(RoundRow.__table__.select())).one().keys is None
        assert all(row.helper_share is None for row in await db.execute(ReportRow.__table__.select()))
    again = Leader(servers, leader.manifest)
    for ask in (leader.agree(*THREE), leader.share(), leader.ask(leader.question("site_03")), again.begin()):
        with pytest.raises(RoundVoided):
            await ask


@pytest.mark.both_databases
async def test_a_database_from_an_older_copy_voids_its_rounds(servers: Servers) -> None:
    """No second verdict, no second set, no second attempt at what was opened since the copy; the next round goes on."""
    leader = await Leader(servers, servers.manifest(sites=4, number=5, attempt=1)).begin()
    copy = await copied(servers)
    verdicts = await leader.ask(*(leader.question(site) for site in THREE))
    assert all(verdict.message is not None for verdict in verdicts)
    await leader.agree(*THREE)
    await put_back(servers, copy)
    begin = Leader(servers, leader.manifest).begin()
    for ask in (leader.ask(leader.question("site_00")), leader.agree(*THREE), leader.share(), begin):
        with pytest.raises(RoundVoided):
            await ask
    again = await judged(servers, *THREE, number=5, attempt=2)
    with pytest.raises(RoundAnswered):
        await again.agree("site_00", "site_01")
    following = await judged(servers, *THREE, number=6)
    await following.agree(*THREE)
    servers.restart_helper()
    assert await following.share()


async def test_a_share_leaves_only_once_its_opening_is_durable(servers: Servers) -> None:
    """A helper that died between its signature and the note makes the note before `share` is answered, or refuses."""
    leader, file = await judged(servers, *THREE, number=8), servers.settings.openings
    await leader.agree(*THREE)
    file.unlink()
    servers.restart_helper()
    file.mkdir()
    with pytest.raises(OSError):
        await leader.share()
    file.rmdir()
    assert await leader.share()
    assert [(found.number, found.round_id) for found in Openings(file).read()] == [(8, leader.manifest.round_id)]


async def test_a_helper_without_its_high_water_file_voids_its_rounds(servers: Servers) -> None:
    leader = await judged(servers, *THREE)
    servers.settings.high_water.unlink()
    with pytest.raises(RoundVoided):
        await leader.agree(*THREE)
    mark = HighWater(servers.settings.high_water).read()
    assert mark is not None
    assert mark.epoch > 10**9, "counted from the clock, so above every epoch that there was"
    await (await judged(servers, *THREE, number=2)).agree(*THREE)


async def test_openings_outlive_a_crash_in_the_middle_of_a_line(tmp_path: Path) -> None:
    file = tmp_path / "openings"
    one, two = (RecordedOpening("job_a", "train", number, RoundId(f"rnd_{number}")) for number in (1, 2))
    await Openings(file).add(one)
    with file.open("a") as torn:
        torn.write("\njob_a tra")
    for _ in range(2):
        await Openings(file).add(two)
    assert Openings(file).read() == [one, two, two]


@pytest.mark.both_databases
async def test_the_schema_is_the_tables(servers: Servers) -> None:
    assert drift(servers.settings.database, PACKAGE, Base.metadata) == []


async def copied(servers: Servers) -> Path:
    """Copy the helper's present database."""
    file = servers.settings.data_dir / "helper.sqlite"
    copy = file.with_suffix(".copy")
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


async def put_back(servers: Servers, copy: Path) -> None:
    """As an operator does by hand, who knows nothing of `helper-restored`."""
    await servers.database.close()
    file = servers.settings.data_dir / "helper.sqlite"
    for part in ("-wal", "-shm"):
        file.with_name(file.name + part).unlink(missing_ok=True)
    shutil.copy(copy, file)
    servers.restart_helper()


async def test_nobody_but_the_aggregator_is_heard(servers: Servers) -> None:
    stage = servers.stage
    transport = httpx.ASGITransport(servers.app, raise_app_exceptions=False)
    for who, status in ((None, 401), (stage.site("site_00"), 403), (stage.coordinator, 403), (stage.aggregator, 204)):
        auth = None if who is None else SigningAuth(who, "helper")
        async with httpx.AsyncClient(transport=transport, base_url="http://helper", auth=auth) as http:
            assert (await http.get("/v1/alive")).status_code == status
    async with httpx.AsyncClient(
        transport=transport, base_url="http://helper", auth=SigningAuth(stage.aggregator, "helper")
    ) as http:
        for body in (b"", b"\xc1", b"\x81\xa1a", b"\x90", bytes(100)):
            for path in ("reports", "set", "share"):
                answer = await http.post(f"/v1/rounds/{new_id('rnd')}/{path}", content=body)
                assert 400 <= answer.status_code < 500, (path, body, answer.text)
