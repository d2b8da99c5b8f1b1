"""Messages that come together, and what becomes of them while their sites wait."""

import asyncio
import contextlib
import os
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import text

from tests.services.aggregator.conftest import Stage
from tests.services.aggregator.pairwise import Sites
from undersong.services.aggregator.domain.refusals import (
    NotInCohort,
    RoundUnknown,
    StepDiffers,
    StepNotOpen,
    StepUnknown,
)
from undersong.services.aggregator.steps.messages import StepMessage, take
from undersong.shared.database import Transaction
from undersong.shared.identity.verify import Party
from undersong.shared.ids import RoundId, digest_of


def party(stage: Stage, site: str) -> Party:
    identity = stage.site(site)
    return Party(identity.subject, identity.keyid, identity.private_key.public_key())


async def test_messages_that_come_together_are_judged_one_by_one(quick_stage: Stage) -> None:
    """A batch comes to what its messages come to one after the other, repetitions, contradictions and strangers too."""
    together, singly = await Sites.open(quick_stage), await Sites.open(quick_stage)
    unknown = RoundId("rnd_00000000000000000000000000")
    one, two = together.manifest.cohort[:2]
    script = [
        (one, "advertise", b"mine"), (two, "advertise", b"mine"), (one, "advertise", b"mine"),
        (one, "advertise", b"other"), (two, "share", b"early"), ("stranger", "advertise", b"x"),
        (two, "nonsense", b"x"), *((site, "advertise", b"mine") for site in together.manifest.cohort[2:]),
    ]  # fmt: skip

    def said(round_id: str, site: str, step: str, body: bytes) -> StepMessage:
        return StepMessage(RoundId(round_id), step, party(quick_stage, site), digest_of(body), b"key", body)

    mixed = [said(round_id, *line) for line in script for round_id in (together.id, unknown)]
    batch = await quick_stage.database.run("test", lambda tx: take(tx, mixed))
    assert {type(answer) for answer in batch[1::2]} == {RoundUnknown}
    alone = []
    for line in script:
        message = said(singly.id, *line)
        alone += await quick_stage.database.run("test", lambda tx, m=message: take(tx, [m]))  # type: ignore[misc]
    shown = [answer if isinstance(answer, bool) else type(answer) for answer in batch[::2]]
    assert shown == [answer if isinstance(answer, bool) else type(answer) for answer in alone]
    refused = [StepDiffers, StepNotOpen, NotInCohort, StepUnknown]
    assert shown == [True, True, False, *refused, *[True] * (len(together.manifest.cohort) - 2)]

    async def rows(tx: Transaction, round_id: str) -> list[tuple[Any, ...]]:
        kept = "SELECT step, site_id, digest FROM step_messages WHERE round_id = :r ORDER BY site_id"
        missing = "SELECT step, step_missing, phase FROM rounds WHERE id = :r"
        found = [(await tx.session.execute(text(query), {"r": round_id})).all() for query in (kept, missing)]
        return [tuple(row) for some in found for row in some]

    first, second = [
        await quick_stage.database.read("test", lambda tx, r=each.id: rows(tx, r))  # type: ignore[misc]
        for each in (together, singly)
    ]
    assert first == second
    assert first[-1] == ("advertise", 0, "collecting")


async def test_a_message_is_not_kept_in_memory_while_its_site_waits(quick_stage: Stage) -> None:
    sites = await Sites.open(quick_stage)
    one, size = sites.manifest.cohort[0], 8 << 20
    held = []

    @contextlib.asynccontextmanager
    async def message() -> AsyncIterator[bytes]:
        yield os.urandom(size)
        held.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        waiting = asyncio.create_task(
            quick_stage.components.steps.say(RoundId(sites.id), party(quick_stage, one), "advertise", message(), 30)
        )
        await asyncio.wait([waiting], timeout=2)
        now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not waiting.done()
    waiting.cancel()
    assert len(held) == 1
    assert most - before > size
    assert now - before < size / 8
