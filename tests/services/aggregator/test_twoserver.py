"""Rounds of two servers: honest sums are exact, each cheat is refused by name, and a crash anywhere changes nothing."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, update

from tests.services.aggregator.conftest import Stage
from tests.services.aggregator.two_servers import CLIP, LENGTH, Killed, Round, Servers, new_id
from undersong.services.aggregator.tables import RoundRow
from undersong.services.keys.helper.repository.rounds import HelperRepository
from undersong.services.keys.helper.tables import OpeningRow, ReportRow
from undersong.services.keys.helper.tables import RoundRow as HelperRoundRow
from undersong.shared import faults
from undersong.shared.clock import utc_now
from undersong.shared.database import Transaction
from undersong.shared.ids import SiteId, digest_of
from undersong.shared.secagg.private import plan_multiples, plan_noisy
from undersong.shared.secagg.quantise import plan_sums
from undersong.shared.secagg.twoserver.helper import HelperKeys, aggregate, pack_share
from undersong.shared.secagg.twoserver.report import ReportSealedElsewhere, share_info, unseal
from undersong.shared.secagg.twoserver.roles import LEADER
from undersong.shared.wire.manifest import RoundKind
from undersong.shared.wire.privacy import CorrelatedNoise, PrivacyModel, PrivacyTerms, PrivacyUnit

POINTS = (
    "aggregator.update.committed",
    "aggregator.round.claimed",
    "helper.report.judged",
    "aggregator.reports.verified",
    "aggregator.update.folded",
    "aggregator.step.frozen",
    "helper.set.agreed",
    "aggregator.step.witnessed",
    "aggregator.step.closed",
    "helper.share.made",
    "aggregator.share.received",
    "aggregator.sum.opened",
    "aggregator.round.checked",
    "aggregator.version.published",
)
BOUND = 2**20


@pytest.fixture
async def servers(quick_stage: Stage, tmp_path: Path) -> AsyncIterator[Servers]:
    made = Servers(quick_stage, tmp_path / "helper")
    yield made
    faults.watch(None)
    await made.close()


def terms(unit: PrivacyUnit) -> PrivacyTerms:
    return PrivacyTerms(
        model=PrivacyModel.SERVER, unit=unit, noise_multiplier=0.5, delta=1e-6, epsilon=10, rounds=1, min_sites=2
    )


def vectors(count: int) -> list[Any]:
    found = np.random.default_rng(7).normal(size=(count, LENGTH))
    return list(found / np.linalg.norm(found, axis=1)[:, None])


async def test_a_round_sums_exactly_and_its_record_says_so(servers: Servers) -> None:
    round_ = await servers.begin(servers.manifest())
    integers = [await round_.honest(f"site_{i:02d}", v) for i, v in enumerate(vectors(3))]
    state = await round_.drive()
    assert (state["state"], state["got"], state["rejections"]) == ("published", 3, [])
    assert state["opening"], "no site is ever asked for this round again"
    assert (state["result"]["weight"], state["result"]["loss"]) == (3, None)
    assert np.array_equal(round_.model(state), round_.mean(integers))
    await servers.stage.driver._records.hand_in(round_.manifest.round_id)
    record = servers.records[round_.manifest.round_id]  # checked as the keys service checks it
    assert record.contributors == 3
    assert record.survivors is not None


async def test_verified_reports_are_shared_among_workers(
    servers: Servers, by_another: Callable[[Stage], list[int]]
) -> None:
    """Partial sums are added modulo the field's prime."""
    round_ = await servers.begin(servers.manifest(sites=4))
    folded = by_another(servers.stage)
    integers = [await round_.honest(f"site_{i:02d}", v) for i, v in enumerate(vectors(4))]
    state = await round_.drive()
    assert state["state"] == "published", state
    assert folded
    assert min(folded) == 1
    assert np.array_equal(round_.model(state), round_.mean(integers))


async def test_each_server_adds_noise_of_its_own(servers: Servers) -> None:
    """Drawn once: the sum computed again after a crash is the same, so nothing is averaged away."""
    round_ = await servers.begin(servers.manifest(privacy=terms(PrivacyUnit.SITE)))
    integers = [await round_.honest(f"site_{i:02d}", v) for i, v in enumerate(vectors(3))]
    state = await round_.drive()
    assert state["state"] == "published", state
    encoding = round_.manifest.encoding
    assert encoding is not None
    noise = round_.model(state) * encoding.scale * 3 - np.sum(np.stack(integers), axis=0)
    assert 0.4 < np.std(noise) / (0.5 * BOUND * np.sqrt(2)) < 2.2, "two servers' worth"
    found = await servers.database.read("test.round", lambda tx: HelperRepository(tx).get(round_.manifest.round_id))
    kept = await servers.database.read("test.kept", lambda tx: HelperRepository(tx).kept(round_.manifest.round_id))
    keys = servers.rounds._keys(found, found.keys or b"")
    taken = [each.taken for each in kept.values()]
    shares = [aggregate(round_.manifest, keys, taken) for _ in range(2)]
    assert np.array_equal(*shares)
    assert digest_of(pack_share(shares[0])) == (found.share_digest or b"").hex(), "what it signed"


async def test_the_aggregator_gives_a_row_of_noise_to_one_sum(servers: Servers) -> None:
    """Also where the helper would: of two servers one that keeps to it is enough."""
    turns = terms(PrivacyUnit.SITE).model_copy(
        update={"correlated": CorrelatedNoise(separation=4, participations=2), "rounds": 8}
    )
    encoding = plan_noisy(summands=3, clip_norm=CLIP, modulus_bits=64, terms=turns)
    states = []
    for number, row in ((1, 3), (2, 3), (3, 2), (4, 4)):
        asked = servers.manifest(privacy=turns, encoding=encoding, noise_row=row, number=number)
        round_ = await servers.begin(asked)
        for i, vector in enumerate(vectors(3)):
            await round_.honest(f"site_{i:02d}", vector)
        state = await round_.drive()
        states.append((state["state"], state["reason"], state["opening"]))
        await servers.database.run("test.forget", lambda tx: tx.session.execute(delete(OpeningRow)))
    taken = ("failed", "noise-row-taken", True)
    assert states == [("published", None, True), taken, taken, ("published", None, True)]


async def test_sums_without_a_bound_are_split_without_a_proof(servers: Servers) -> None:
    round_ = await servers.begin(servers.manifest(RoundKind.STATISTICS, encoding=plan_sums(summands=3)))
    wanted = np.zeros(4)
    for i, values in enumerate(([1.5, -2.0, 3e6, 0.25], [0.5, 7.0, -1e6, 0.5], [2.0, 1.0, 0.0, 0.125])):
        await round_.honest(f"site_{i:02d}", values)
        wanted += values
    state = await round_.drive()
    assert state["state"] == "published", state
    assert state["result"]["values"] == pytest.approx(wanted.tolist(), abs=1e-6)


async def test_statistics_get_noise_of_each_server(servers: Servers) -> None:
    """Multiples of what one row can change, one word each, so that their number may be odd."""
    asked, length = terms(PrivacyUnit.RECORD), 301
    encoding = plan_multiples(summands=3, length=length, terms=asked)
    manifest = servers.manifest(RoundKind.STATISTICS, encoding=encoding, privacy=asked, length=length)
    round_ = await servers.begin(manifest)
    for i in range(3):
        await round_.honest(f"site_{i:02d}", np.full(length, 100.0 * i))
    state = await round_.drive()
    assert state["state"] == "published", state
    noise = np.array(state["result"]["values"]) - 300.0
    assert np.std(noise) == pytest.approx(0.5 * np.sqrt(2), rel=0.2), "two servers' worth"


async def test_whoever_cheats_is_named_and_the_others_sum_is_exact(servers: Servers) -> None:
    """One round, every cheat at once; the three honest sites' mean is exact to the last bit."""
    earlier = await servers.begin(servers.manifest(sites=3, number=1))
    round_ = await servers.begin(servers.manifest(sites=14, number=2, min_cohort=3))
    unit = vectors(1)[0]
    scaled = lambda factor: np.rint(unit * factor * BOUND).astype(np.int64)  # noqa: E731
    expected: dict[str, str] = {}

    async def cheat(number: int, code: str, body: bytes) -> None:
        site = f"site_{number:02d}"
        answer = await round_.send(site, body)
        assert answer.status_code == 201, (number, answer.text)
        expected[site] = code

    def lies(number: int, vector: Any) -> bytes:
        report_id = new_id()
        return round_.forged(f"site_{number:02d}", round_.lies(vector, report_id), report_id)

    integers = [await round_.honest(f"site_{i:02d}", v) for i, v in enumerate(vectors(3))]
    await cheat(3, "vdaf-rejected", lies(3, scaled(100)))
    await cheat(4, "vdaf-rejected", lies(4, scaled(1.01)))
    wrapped = np.zeros(LENGTH, np.int64)
    wrapped[0] = 2**32  # its square is p + 2**32 - 1: in the field a norm within the bound
    await cheat(5, "vdaf-rejected", lies(5, wrapped))

    def broken(number: int, change: Any) -> bytes:
        report_id = new_id()
        shares = tuple(bytearray(part) for part in round_.shares(scaled(0.5), report_id))
        change(*shares)
        public, leader, helper = (bytes(part) for part in shares)
        return round_.forged(f"site_{number:02d}", (public, leader, helper), report_id)

    def not_a_number(public: bytearray, leader: bytearray, helper: bytearray) -> None:
        leader[:8] = b"\xff" * 8  # what NaN would be: no element of the field

    def wrong_proof(public: bytearray, leader: bytearray, helper: bytearray) -> None:
        leader[-200] ^= 1

    def wrong_seeds(public: bytearray, leader: bytearray, helper: bytearray) -> None:
        helper[:] = bytes(len(helper))

    def wrong_public(public: bytearray, leader: bytearray, helper: bytearray) -> None:
        public[0] ^= 1

    await cheat(6, "vdaf-malformed", broken(6, not_a_number))
    await cheat(7, "vdaf-rejected", broken(7, wrong_proof))
    await cheat(8, "vdaf-rejected", broken(8, wrong_seeds))
    await cheat(9, "vdaf-rejected", broken(9, wrong_public))
    report_id = new_id()
    one, other = (round_.shares(scaled(factor), report_id) for factor in (0.5, 0.6))
    await cheat(10, "vdaf-rejected", round_.forged("site_10", (one[0], one[1], other[2]), report_id))
    report_id = new_id()
    shares = earlier.shares(scaled(0.5), report_id)
    await cheat(11, "report-sealed-elsewhere", round_.forged("site_11", shares, report_id, sealed_as=earlier))
    report_id = new_id()
    stranger = servers.stage.site("site_00")
    forged = round_.forged("site_12", round_.shares(scaled(0.5), report_id), report_id, signer=stranger)
    await cheat(12, "report-unsigned", forged)
    answer = await round_.send("site_13", round_.forged("site_13", shares, report_id))
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (409, "report-repeated")

    await servers.stage.post(round_.manifest.round_id, "close")
    state = await round_.drive()
    assert {item["site_id"]: item["code"] for item in state["rejections"]} == expected
    assert all(item["message"] for item in state["rejections"])
    assert state["state"] == "published", state
    assert sorted(state["accepted"]) == ["site_00", "site_01", "site_02"]
    assert np.array_equal(round_.model(state), round_.mean(integers))


async def test_a_report_that_was_handed_in_once_is_refused_for_ever(servers: Servers) -> None:
    """The same bytes get the same receipt; the same report in another round, or from another site, gets a refusal."""
    first = await servers.begin(servers.manifest(number=1))
    body = first.body("site_00", vectors(1)[0])
    receipts = [(await first.send("site_00", body)).json() for _ in range(2)]
    assert receipts[0] == receipts[1]
    assert (await first.send("site_01", body)).status_code == 422, "another site's report"
    second = await servers.begin(servers.manifest(number=2))
    assert (await second.send("site_00", body)).status_code == 422, "another round's report"
    report_id = new_id()
    shares = first.shares(np.zeros(LENGTH, np.int64), report_id)
    assert (await first.send("site_01", first.forged("site_01", shares, report_id))).status_code == 201
    again = await second.send("site_01", second.forged("site_01", shares, report_id))
    assert (again.status_code, again.json()["type"].rpartition(":")[2]) == (409, "report-repeated")


async def test_fewer_accepted_reports_than_the_minimum_open_nothing(servers: Servers) -> None:
    round_ = await servers.begin(servers.manifest(min_cohort=3))
    for i, v in enumerate(vectors(2)):
        await round_.honest(f"site_{i:02d}", v)
    report_id = new_id()
    lie = round_.forged("site_02", round_.lies(np.full(LENGTH, BOUND), report_id), report_id)
    assert (await round_.send("site_02", lie)).status_code == 201
    state = await round_.drive()
    assert (state["state"], state["reason"]) == ("failed", "quorum")
    assert not state["opening"], "another attempt may ask the sites again"
    async with servers.database.engine.connect() as db:
        assert (await db.execute(HelperRoundRow.__table__.select())).one().accepted is None


@pytest.mark.parametrize("where", POINTS)
async def test_a_crash_at_any_step_changes_nothing(servers: Servers, where: str) -> None:
    """Leader or helper dies there, once; the next process opens the same sum, and the helper signed one set."""
    round_ = await servers.begin(servers.manifest())
    integers = [await round_.honest(f"site_{i:02d}", v) for i, v in enumerate(vectors(2))]
    alive = True

    def die(name: str) -> None:
        nonlocal alive
        if alive and name == where:
            alive = False
            raise Killed

    faults.watch(die)
    body = round_.body("site_02", vectors(3)[2])
    try:
        await round_.send("site_02", body)
    except Killed:
        servers.stage.restart()
    assert (await round_.send("site_02", body)).status_code == 200 or alive
    state = await _to_the_end(round_)
    assert not alive, "the step was passed"
    assert (state["state"], state["got"]) == ("published", 3), state
    assert len(integers) == 2
    async with servers.database.engine.connect() as db:
        assert len((await db.execute(ReportRow.__table__.select())).all()) == 3
        assert (await db.execute(HelperRoundRow.__table__.select())).one().accepted is not None
    mean = round_.model(state)
    assert np.allclose(mean, np.mean([*vectors(2), vectors(3)[2]], axis=0), atol=1e-5)


async def test_a_round_waits_for_the_helper_and_then_fails_with_its_name(servers: Servers) -> None:
    round_ = await servers.begin(servers.manifest())
    integers = [await round_.honest(f"site_{i:02d}", v) for i, v in enumerate(vectors(3))]
    servers.net.away.add("7005")
    for _ in range(2):
        assert (await round_.drive())["state"] == "frozen"
    servers.net.away.clear()
    assert (await _to_the_end(round_))["state"] == "published"
    assert len(integers) == 3
    lost = await servers.begin(servers.manifest(number=2))
    for i, v in enumerate(vectors(3)):
        await lost.honest(f"site_{i:02d}", v)
    servers.net.away.add("7005")
    assert (await lost.drive())["state"] == "frozen"
    await _overdue(servers.stage)
    await servers.stage.maintenance.enforce()  # the sweeper, which every worker has
    state = await lost.state()
    assert (state["state"], state["reason"]) == ("failed", "helper-unreachable")


async def test_a_round_cannot_begin_without_the_helper(servers: Servers) -> None:
    manifest = servers.manifest()
    servers.net.away.add("7005")
    assert (await servers.stage.put_round(manifest)).status_code == 503
    servers.net.away.clear()
    assert (await servers.stage.put_round(manifest)).status_code == 200


async def test_no_server_can_open_the_others_half(servers: Servers) -> None:
    """Nothing that either stores, or says to the other, holds the other's half of an update or the update itself."""
    round_ = await servers.begin(servers.manifest())
    canary = np.arange(LENGTH) * 0.01 + 0.123
    canary = (canary / np.linalg.norm(canary)).astype(np.float32)
    report_id = new_id()
    integers = np.rint(canary * BOUND / 2).astype(np.int64)
    shares = round_.shares(integers, report_id)
    assert (await round_.send("site_00", round_.forged("site_00", shares, report_id))).status_code == 201
    for i, v in enumerate(vectors(2), 1):
        await round_.honest(f"site_{i:02d}", v)
    assert (await round_.drive())["state"] == "published"
    _, leader, helper = shares
    secrets_ = [leader[8 * at : 8 * at + 32] for at in (0, 4, 8, 200)]
    secrets_ += [helper[at : at + 32] for at in (0, 32, 64, 96)]
    secrets_ += [integers.tobytes()[:32], canary.tobytes()[:32]]
    stores = [*servers.settings.data_dir.rglob("*"), *servers.stage.settings.data_dir.rglob("*")]
    held = [path.read_bytes() for path in stores if path.is_file()] + servers.net.seen
    assert held
    assert not any(secret in data for secret in secrets_ for data in held)
    info = share_info(round_.manifest, SiteId("site_00"), report_id, LEADER)
    keys = await _helper_key(servers)
    sealed = round_.forged("site_00", shares, report_id)[-len(leader) - 48 :]
    with pytest.raises(ReportSealedElsewhere):
        unseal(sealed, keys, info)


async def _helper_key(servers: Servers) -> bytes:
    async def work(tx: Transaction) -> bytes:
        row = (await tx.session.execute(HelperRoundRow.__table__.select())).one()
        return HelperKeys.unpack(servers.rounds._sealer.open(row.keys, "rounds", row.id, "keys")).private_key

    return await servers.database.read("test.keys", work)


async def _to_the_end(round_: Round) -> dict[str, Any]:
    """Drive, and begin again after a death, as a supervisor does."""
    for _ in range(8):
        try:
            state = await round_.drive()
        except Killed:
            round_.stage.restart()
            await _release(round_.stage)
            continue
        if state["state"] in ("published", "failed"):
            return state
    return await round_.state()


async def _release(stage: Stage) -> None:
    """The dead worker's lease ends."""

    async def work(tx: Transaction) -> None:
        await tx.session.execute(update(RoundRow).values(worker_until=utc_now() - timedelta(seconds=1)))

    await stage.database.run("test.release", work)


async def _overdue(stage: Stage) -> None:
    async def work(tx: Transaction) -> None:
        await tx.session.execute(update(RoundRow).values(finish_by=utc_now() - timedelta(seconds=1)))

    await stage.database.run("test.overdue", work)
