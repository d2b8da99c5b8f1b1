"""Rounds with real custodians, through the aggregator's API: exact sums, custodians away, restored, or asked twice."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.services.aggregator.conftest import Stage
from tests.services.aggregator.custodians import LENGTH, Custodians
from tests.services.aggregator.two_servers import Killed
from undersong.services.keys.custodian.repository.rounds import CustodianRepository
from undersong.services.keys.custodian.tables import Base
from undersong.services.keys.custodian.wiring import PACKAGE, void_rounds
from undersong.shared import faults
from undersong.shared.database.migrations import drift
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.secagg import engines
from undersong.shared.secagg.oneshot.facts import FACTS, NAME
from undersong.shared.secagg.quantise import plan_sums
from undersong.shared.wire.manifest import RoundKind


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "ENGINES", {**engines.ENGINES, NAME: FACTS})
        yield
    engines.engine_named.cache_clear()
    engines.engine_audit.cache_clear()


@pytest.fixture
async def custodians(quick_stage: Stage, tmp_path: Path) -> AsyncIterator[Custodians]:
    made = Custodians(quick_stage, tmp_path)
    for each in made.each:
        await each.rounds.start()
    yield made
    faults.watch(None)
    await made.close()


def vectors(count: int) -> list[Any]:
    return list(np.random.default_rng(7).normal(size=(count, LENGTH)))


async def test_a_round_sums_exactly_and_its_record_says_so(custodians: Custodians) -> None:
    round_ = await custodians.begin()
    integers = [await round_.submit(f"site_{i:02d}", v) for i, v in enumerate(vectors(3))]
    state = await round_.drive()
    assert (state["state"], state["got"]) == ("published", 3), state
    assert state["opening"], "no site is ever asked for this round again"
    assert np.array_equal(round_.model(state), round_.mean(integers))
    await custodians.stage.driver._records.hand_in(round_.manifest.round_id)
    assert custodians.records[round_.manifest.round_id].contributors == 3


async def test_statistics_of_64_bits_are_exact(custodians: Custodians) -> None:
    round_ = await custodians.begin(RoundKind.STATISTICS, encoding=plan_sums(summands=3))
    for i, values in enumerate(([1.5, -2.0, 3e6, 0.25], [0.5, 7.0, -1e6, 0.5], [2.0, 1.0, 0.0, 0.125])):
        await round_.submit(f"site_{i:02d}", values)
    state = await round_.drive()
    assert state["state"] == "published", state
    assert state["result"]["values"] == [4.0, 6.0, 2e6, 0.875]


@pytest.mark.parametrize(("begun", "opened"), [((), ("7008",)), (("7006",), ("7006",))])
async def test_one_custodian_may_be_away(
    custodians: Custodians, begun: tuple[str, ...], opened: tuple[str, ...]
) -> None:
    custodians.net.away = set(begun)
    round_ = await custodians.begin()
    integers = [await round_.submit(f"site_{i:02d}", v) for i, v in enumerate(vectors(3))]
    custodians.net.away = set(opened)
    state = await round_.drive()
    assert state["state"] == "published", state
    assert np.array_equal(round_.model(state), round_.mean(integers))


async def test_custodians_remember_over_a_restart(custodians: Custodians) -> None:
    round_ = await custodians.begin()
    for i, vector in enumerate(vectors(3)):
        await round_.submit(f"site_{i:02d}", vector)
    for each in custodians.each:
        each.restart()
    assert (await round_.drive())["state"] == "published"


@pytest.mark.parametrize("where", ["custodian.round.begun", "custodian.set.checked", "custodian.sum.given"])
async def test_every_custodian_may_be_killed_at_any_point(custodians: Custodians, where: str) -> None:
    """What was committed is asked for again: the same keys, answers and sums."""
    killed: list[str] = []

    def die(name: str) -> None:
        if name == where and len(killed) < 3:
            killed.append(name)
            raise Killed

    faults.watch(die)
    plain = await custodians.plan()
    if where == "custodian.round.begun":
        assert (await custodians.stage.put_round(plain)).status_code == 503
    round_ = await custodians.opened(plain)
    integers = [await round_.submit(f"site_{i:02d}", v) for i, v in enumerate(vectors(3))]
    state = await round_.drive()
    while state["state"] not in ("published", "failed"):
        state = await round_.drive()
    assert (len(killed) >= 2, state["state"]) == (True, "published"), state
    assert np.array_equal(round_.model(state), round_.mean(integers))


async def test_a_second_attempt_at_an_opened_round_is_refused(
    custodians: Custodians, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sums would differ by single sites."""
    for attempt, wanted in ((1, "published"), (2, "failed")):
        round_ = await custodians.begin(attempt=attempt)
        for i, vector in enumerate(vectors(3)):
            await round_.submit(f"site_{i:02d}", vector)
        state = await round_.drive()
        assert state["state"] == wanted, state
    assert state["reason"] == "custodian-refused"
    assert "opened in another attempt" in "".join(capsys.readouterr())


async def test_a_restored_custodian_voids_its_rounds(custodians: Custodians) -> None:
    round_ = await custodians.begin()
    integers = [await round_.submit(f"site_{i:02d}", v) for i, v in enumerate(vectors(3))]
    assert await void_rounds(custodians.each[0].settings) == 1
    state = await round_.drive()
    assert state["state"] == "published", state
    assert np.array_equal(round_.model(state), round_.mean(integers))
    found = await custodians.each[0].database.read(
        "test.round", lambda tx: CustodianRepository(tx).get(round_.manifest.round_id)
    )
    assert (found.key, found.asked) == (None, None)


async def test_two_restored_custodians_end_the_round(
    custodians: Custodians, capsys: pytest.CaptureFixture[str]
) -> None:
    round_ = await custodians.begin()
    for i, vector in enumerate(vectors(3)):
        await round_.submit(f"site_{i:02d}", vector)
    for each in custodians.each[:2]:
        await void_rounds(each.settings)
    state = await round_.drive()
    assert (state["state"], state["reason"]) == ("failed", "custodian-refused"), state
    said = "".join(capsys.readouterr())
    assert "custodian 1: " in said
    assert "database was restored" in said


async def test_a_copy_of_the_database_does_not_make_a_custodian_forget(custodians: Custodians) -> None:
    """What was opened is in a file beside the database; the high-water mark tells that the database is older."""
    copies = []
    for each in custodians.each:
        await each.database.close()
        path = each.settings.data_dir / "custodian.sqlite"
        copies.append(path.read_bytes())
    for attempt, wanted in ((1, "published"), (2, "failed")):
        round_ = await custodians.begin(attempt=attempt)
        for i, vector in enumerate(vectors(3)):
            await round_.submit(f"site_{i:02d}", vector)
        assert (await round_.drive())["state"] == wanted
        for each, copy in zip(custodians.each, copies, strict=True):
            await each.database.close()
            for name in ("custodian.sqlite-wal", "custodian.sqlite-shm"):
                (each.settings.data_dir / name).unlink(missing_ok=True)
            (each.settings.data_dir / "custodian.sqlite").write_bytes(copy)


async def test_only_the_aggregator_asks_a_custodian(custodians: Custodians) -> None:
    stage, asked = custodians.stage, custodians.each[0]
    round_ = await custodians.begin()
    for who in (stage.coordinator, stage.site("site_00"), asked.identity):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(asked.app), base_url="http://custodian") as http:
            auth = SigningAuth(who, asked.settings.service)
            answer = await http.post(f"/v1/rounds/{round_.manifest.round_id}/sum", content=b"x", auth=auth)
            assert answer.status_code == 403
            answer = await http.post(f"/v1/rounds/{round_.manifest.round_id}/sum", content=b"x")
            assert answer.status_code == 401


@pytest.mark.parametrize("junk", [b"", b"\xc1", b"\x81\xa3set\x01", b"\x93" * 500])
async def test_junk_is_refused_in_the_documented_form(custodians: Custodians, junk: bytes) -> None:
    stage, asked = custodians.stage, custodians.each[1]
    round_ = await custodians.begin()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(asked.app), base_url="http://custodian") as http:
        for path in ("sum", "checks"):
            auth = SigningAuth(stage.aggregator, asked.settings.service)
            answer = await http.post(f"/v1/rounds/{round_.manifest.round_id}/{path}", content=junk, auth=auth)
            assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (422, "message-malformed")


async def test_the_schema_is_that_of_the_tables(custodians: Custodians) -> None:
    assert drift(custodians.each[0].settings.database, PACKAGE, Base.metadata) == []
