"""How a step ends: by its deadline, after a crash, without a witness, or with too few for the round to go on."""

import contextlib
from itertools import product
from typing import Any

import pytest
from sqlalchemy import text, update

from tests.effort import also
from tests.services.aggregator.conftest import Stage
from tests.services.aggregator.pairwise import AFTER, BEFORE, Sites, attach
from undersong.services.aggregator.tables import RoundRow
from undersong.shared.database import Transaction
from undersong.shared.secagg.engine import UPLOAD

STEPS = (*BEFORE, UPLOAD, *AFTER)


async def set_back(stage: Stage, **values: Any) -> None:
    async def work(tx: Transaction) -> None:
        await tx.session.execute(update(RoundRow).values(**values))

    await stage.database.run("test.set_back", work)


async def overdue(stage: Stage, round_id: str) -> None:
    """As if the present step's deadline had come."""
    view = await stage.components.rounds.view(round_id)  # type: ignore[arg-type]
    column = "deadline" if view.stored.round.step == UPLOAD else "step_deadline"
    await set_back(stage, **{column: view.stored.opened_at})


@pytest.mark.parametrize("step", STEPS)
async def test_a_steps_deadline_closes_it_over_those_who_came(quick_stage: Stage, step: str) -> None:
    sites = await Sites.open(quick_stage)
    silent = sites.manifest.cohort[4]
    for each in STEPS:
        if each != step:
            await sites.step(each)
            continue
        sites.answers.pop(silent)
        await sites.step(each, close=False)
        assert (await quick_stage.state(sites.id))["step"] == each
        await overdue(quick_stage, sites.id)
        await sites.close()
        await sites.hear(each)
    found = await quick_stage.state(sites.id)
    assert found["state"] == "published"
    assert [each["step"] for each in found["steps"]] == list(STEPS)
    counts = [each["sites"] for each in found["steps"]]
    assert counts == [5] * STEPS.index(step) + [4] * (len(STEPS) - STEPS.index(step))
    assert sorted(found["steps"], key=lambda each: each["closed_at"]) == found["steps"]


@pytest.mark.parametrize(("step", "reason"), [
    ("advertise", "quorum"), ("share", "quorum"), (UPLOAD, "quorum"), ("commit", "not-enough-shares"),
    ("unmask", "not-enough-shares"),
])  # fmt: skip
async def test_too_few_end_the_round_with_a_name(quick_stage: Stage, step: str, reason: str) -> None:
    sites = await Sites.open(quick_stage)
    for each in STEPS[: STEPS.index(step)]:
        await sites.step(each)
    await sites.step(step, without=sites.manifest.cohort[2:])
    found = await quick_stage.state(sites.id)
    assert (found["state"], found["reason"]) == ("failed", reason)
    assert found["opening"] is (step == "unmask")
    assert [each["step"] for each in found["steps"]] == list(STEPS[: STEPS.index(step)])
    over = await sites.get(sites.manifest.cohort[0], step)
    assert (over.status_code, reason in over.json()["detail"]) == (410, True)
    assert sites.keys.records == {}


MOMENTS = list(product(range(3), (False, True)))
"""After so many transactions of the closing; in the next one, before or after its commit."""


CRASHES = list(zip(STEPS, MOMENTS, strict=True))
"""Each step once, each moment once; `make test-all` has all of both."""


@pytest.mark.parametrize(
    ("step", "moment"), [*CRASHES, *also(*(pair for pair in product(STEPS, MOMENTS) if pair not in CRASHES))]
)
async def test_a_crash_while_a_step_is_closed(quick_stage: Stage, step: str, moment: tuple[int, bool]) -> None:
    """Before or after each transaction of the closing: the next worker ends it, and the witness is asked one thing."""
    stage, (after, late) = quick_stage, moment
    sites = await Sites.open(stage)
    for each in STEPS:
        if each != step:
            await sites.step(each)
            continue
        await sites.step(each, close=False)
        driver: Any = stage.driver
        left = after

        class Killed(BaseException):
            pass

        class Mortal:
            async def run(self, name: str, work: Any) -> Any:
                nonlocal left
                if left == 0 and not late:
                    raise Killed
                found = await stage.database.run(name, work)
                if left == 0:
                    raise Killed
                left -= 1
                return found

            def __getattr__(self, name: str) -> Any:
                return getattr(stage.database, name)

        driver._closing._database = driver._publication._database = Mortal()
        stage.components.rounds._database = Mortal()
        with contextlib.suppress(Killed):
            await sites.close()
        stage.restart()
        attach(stage)
        await set_back(stage, worker_until=None)
        await sites.close()
        await sites.hear(each)
    found = await stage.state(sites.id)
    assert (found["state"], found["got"]) == ("published", 5)
    assert len(set(sites.keys.asked)) == 2, "one roster and one survivor set, however often"


async def test_the_survivor_set_is_fixed_before_the_witness_hears_of_it(quick_stage: Stage) -> None:
    """The witness signs and its answer is lost; who was rejected or came late meanwhile changes nothing."""
    stage = quick_stage
    sites = await Sites.open(stage)
    for step in BEFORE:
        await sites.step(step)
    gone = sites.manifest.cohort[4]
    await sites.step(UPLOAD, without=(gone,), close=False)
    sites.keys.lose_answers = 1
    with pytest.raises(Exception, match=r"lost|reached"):
        await sites.close()
    late = await sites.upload(gone) if (gone, UPLOAD) in sites.said else await stage.send(sites.id, gone, b"x" * 99)
    assert late.status_code == 410
    stage.restart()
    attach(stage)
    await set_back(stage, worker_until=None)
    await sites.close()
    await sites.hear(UPLOAD)
    for step in AFTER:
        await sites.step(step)
    assert (await stage.state(sites.id))["got"] == 4
    assert len(set(sites.keys.asked)) == 2


async def test_a_signed_survivor_whose_body_is_lost_ends_the_round(quick_stage: Stage) -> None:
    """The set is fixed; without one of its bodies there is no sum, and there is no smaller set."""
    stage = quick_stage
    sites = await Sites.open(stage)
    for step in (*BEFORE, UPLOAD):
        await sites.step(step)
    view = await stage.components.rounds.view(sites.id)  # type: ignore[arg-type]
    await stage.components.blobs.delete(view.contributions[0].digest)
    stage.restart()
    attach(stage)
    await set_back(stage, worker_until=None)
    for step in AFTER[:1]:
        await sites.step(step)
    found = await stage.state(sites.id)
    assert (found["state"], found["reason"]) == ("failed", "update-lost")


async def test_a_witness_that_refuses_or_is_away(quick_stage: Stage) -> None:
    sites = await Sites.open(quick_stage)
    sites.keys.away = True
    with pytest.raises(Exception, match="keys service"):
        await sites.step("advertise")
    sites.keys.away = False
    sites.keys.nonces[sites.id] = bytes(32)
    await sites.close()
    found = await quick_stage.state(sites.id)
    assert (found["state"], found["reason"]) == ("failed", "witness-refused")


async def test_a_record_waits_for_keys(quick_stage: Stage) -> None:
    sites = await Sites.open(quick_stage)
    for step in STEPS[:-1]:
        await sites.step(step)
    sites.keys.away = True
    await sites.step(STEPS[-1])
    assert (await quick_stage.state(sites.id))["state"] == "published"
    assert sites.keys.records == {}
    sites.keys.away = False
    await quick_stage.database.run(
        "test.due", lambda tx: tx.session.execute(text("UPDATE records SET next_try_at = '2020-01-01 00:00:00'"))
    )
    assert await quick_stage.maintenance.records.sweep() == 1
    assert await quick_stage.maintenance.records.sweep() == 0
    assert sites.id in sites.keys.records
